using System.Runtime.InteropServices;
using Virtbus.Platform;
using Virtbus.Wire.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserProtocol;

namespace Virtbus.Remote.Pci.VfioUser;

/// <summary>What the device has: regions, interrupts, doorbells.</summary>
public sealed partial class VfioUserClient
{
    /// <summary>What a region is. Asked once; the files of its areas belong to the client.</summary>
    /// <param name="index">Region index.</param>
    /// <param name="info">What it is.</param>
    /// <param name="fault">EINVAL: no such region; else as for <see cref="TryRead"/>.</param>
    public bool TryGetRegionInfo(uint index, out VfioRegionInfo? info, out Fault fault)
    {
        lock (_lock)
        {
            if (_regions.TryGetValue(index, out info))
            {
                fault = Fault.None;
                return true;
            }
        }

        var call = _channel.Rent();
        try
        {
            var size = (uint)RegionInfoSize;
            // What does not fit is told by its size; the second time all of it comes.
            for (var tries = 0; tries < 2; tries++)
            {
                var request = call.Request(HeaderSize + RegionInfoSize);
                MemoryMarshal.Write(request[HeaderSize..], new VfioUserRegionInfo { ArgSize = size, Index = index });
                if (!TryCall(call, VfioUserCommand.DEVICE_GET_REGION_INFO, request, default, out fault))
                    return false;
                if (call.Reply.Length < RegionInfoSize)
                    return Refuse(Errno.EPROTO, "the answer is shorter than a region's info", out fault);
                var needed = call.Read<VfioUserRegionInfo>().ArgSize;
                if (needed <= size || needed > MaxMessage - HeaderSize)
                    break;
                size = needed;
                VfioUserInbox.CloseAll(call.Descriptors);
            }

            if (!VfioUserRegionReply.TryRead(call.Reply, call.Descriptors, out info, out fault))
                return false;
            lock (_lock)
            {
                if (_disposed || !_regions.TryAdd(index, info!))
                {
                    foreach (var area in info!.Areas)
                        area.File.Dispose();
                    return _regions.TryGetValue(index, out info) || Refuse(Errno.ECONNRESET, "the client was disposed", out fault);
                }
            }

            return true;
        }
        finally
        {
            _channel.Return(call);
        }
    }

    /// <summary>What an interrupt index is.</summary>
    /// <param name="index">Interrupt index.</param>
    /// <param name="info">What it is.</param>
    /// <param name="fault">EINVAL: no such index; else as for <see cref="TryRead"/>.</param>
    public bool TryGetIrqInfo(uint index, out VfioIrqInfo info, out Fault fault)
    {
        info = default;
        Span<byte> request = stackalloc byte[IrqInfoSize];
        MemoryMarshal.Write(request, new VfioUserIrqInfo { ArgSize = IrqInfoSize, Index = index });
        if (!TryAsk(VfioUserCommand.DEVICE_GET_IRQ_INFO, request, out VfioUserIrqInfo answer, out fault))
            return false;
        info = new VfioIrqInfo((VfioIrqFlags)answer.Flags, answer.Count);
        return true;
    }

    /// <summary>The doorbells of a region that eventfds stand for. Asked once.</summary>
    /// <param name="region">Region index.</param>
    /// <param name="doorbells">The doorbells; none when the server has none, or knows no such request.</param>
    /// <param name="fault">As for <see cref="TryRead"/>.</param>
    public bool TryGetDoorbells(uint region, out IReadOnlyList<VfioUserDoorbell> doorbells, out Fault fault)
    {
        lock (_lock)
        {
            fault = Fault.None;
            if (_doorbells.TryGetValue(region, out doorbells!))
                return true;
        }

        doorbells = [];
        var call = _channel.Rent();
        try
        {
            var size = (uint)(IoFdsSize + (16 * WideIoFdSize));
            for (var tries = 0; tries < 2; tries++)
            {
                var request = call.Request(HeaderSize + IoFdsSize);
                MemoryMarshal.Write(request[HeaderSize..], new VfioUserIoFds { ArgSize = size, Index = region });
                if (!TryCall(call, VfioUserCommand.DEVICE_GET_REGION_IO_FDS, request, default, out fault))
                    return false;
                if (call.Reply.Length < IoFdsSize)
                    return Refuse(Errno.EPROTO, "the answer is shorter than the head of a list of descriptors", out fault);
                var needed = call.Read<VfioUserIoFds>().ArgSize;
                if (needed <= size || needed > MaxMessage - HeaderSize)
                    break;
                size = needed;
                VfioUserInbox.CloseAll(call.Descriptors);
            }

            var list = VfioUserDoorbellReader.Read(call.Reply, call.Descriptors);
            lock (_lock)
            {
                if (!_disposed && _doorbells.TryAdd(region, list))
                {
                    doorbells = list;
                    return true;
                }

                foreach (var doorbell in list)
                    doorbell.Signal.Dispose();
                return _doorbells.TryGetValue(region, out doorbells!) || Refuse(Errno.ECONNRESET, "the client was disposed", out fault);
            }
        }
        finally
        {
            _channel.Return(call);
        }
    }
}
