using System.Runtime.InteropServices;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using Virtbus.Wire.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserProtocol;

namespace Virtbus.Transports.VfioUser;

/// <summary>What a client asks of the device, its regions and its interrupts, and how it sets these up. Used by the session's thread.</summary>
/// <param name="session">Whose.</param>
/// <param name="handle">The device.</param>
/// <param name="descriptors">The most descriptors that the client takes in one message.</param>
/// <param name="most">The most descriptors that this side puts into one.</param>
internal sealed class VfioUserDescription(VfioUserSession session, VfioHandle handle, int descriptors, int most) : IDisposable
{
    private readonly VfioUserAnswers _answers = session.Answers;
    private readonly VfioDeviceInfo _info = handle.Info;
    private readonly Dictionary<uint, List<EventFd>> _doorbells = [];

    public void Dispose()
    {
        foreach (var signal in _doorbells.Values.SelectMany(list => list))
            signal.Dispose();
    }

    internal bool TryGetInfo(in VfioUserMessage message, out Fault fault)
    {
        if (!VfioUserAnswers.TryCheckSize(message, DeviceInfoSize, out fault) || !message.WantsReply ||
            !_answers.TryBegin(message, DeviceInfoSize, out var reply))
            return fault == Fault.None;
        MemoryMarshal.Write(reply, new VfioUserDeviceInfo
        {
            ArgSize = DeviceInfoSize,
            Flags = (_info.CanReset ? DeviceResetFlag : 0) | (_info.IsPci ? DevicePciFlag : 0),
            Regions = (uint)_info.Regions,
            Interrupts = (uint)_info.Interrupts,
        });
        return _answers.Keep(DeviceInfoSize);
    }

    internal bool TryGetIrqInfo(in VfioUserMessage message, out Fault fault)
    {
        if (!VfioUserAnswers.TryCheckSize(message, IrqInfoSize, out fault))
            return false;
        var index = message.Read<VfioUserIrqInfo>().Index;
        if (!handle.TryGetIrqInfo(index, out var info, out fault))
            return false;
        if (!message.WantsReply || !_answers.TryBegin(message, IrqInfoSize, out var reply))
            return true;
        MemoryMarshal.Write(reply, new VfioUserIrqInfo { ArgSize = IrqInfoSize, Flags = (uint)info.Flags, Index = index, Count = info.Count });
        return _answers.Keep(IrqInfoSize);
    }

    internal bool TryGetRegionInfo(in VfioUserMessage message, out Fault fault)
    {
        if (!VfioUserAnswers.TryCheckSize(message, RegionInfoSize, out fault))
            return false;
        var index = message.Read<VfioUserRegionInfo>().Index;
        if (!handle.TryGetRegionInfo(index, out var info, out fault))
            return false;
        if (!message.WantsReply)
            return true;
        // One descriptor for a region, and one offset in its file: areas that lie elsewhere are read and written by messages.
        var areas = info!.Areas.Count == 0 ? [] : info.Areas.Where(area => area.File == info.Areas[0].File &&
            unchecked(area.FileOffset - area.Offset == info.Areas[0].FileOffset - info.Areas[0].Offset)).ToArray();
        // Who takes no descriptor maps nothing.
        var mmap = info.Flags.HasFlag(VfioRegionFlags.Mmap) && areas.Length > 0 && descriptors > 0;
        var sparse = mmap && !(areas.Length == 1 && areas[0].Offset == 0 && areas[0].Size == info.Size) ? areas : [];
        var size = VfioUserRegionReply.SizeOf(sparse.Length, info.Type is not null);
        // What does not fit is told by its size; the client asks again. Without the capabilities a descriptor would say too much.
        var whole = message.ArgSize >= (uint)size;
        var length = whole ? size : RegionInfoSize;
        if (!_answers.TryBegin(message, length, out var reply))
            return true;
        var capabilities = whole && size > RegionInfoSize;
        MemoryMarshal.Write(reply, new VfioUserRegionInfo
        {
            ArgSize = (uint)size,
            Flags = (uint)(info.Flags & ~(mmap ? VfioRegionFlags.None : VfioRegionFlags.Mmap)) | (capabilities ? RegionCapsFlag : 0),
            Index = index,
            Capabilities = capabilities ? (uint)RegionInfoSize : 0,
            Size = info.Size,
            Offset = mmap ? unchecked(areas[0].FileOffset - areas[0].Offset) : 0,
        });
        if (capabilities)
            VfioUserRegionReply.WriteCapabilities(reply, sparse, info.Type);
        return whole && mmap ? _answers.Send(length, [areas[0].File]) : _answers.Keep(length);
    }

    internal bool TryGetIoFds(in VfioUserMessage message, out Fault fault)
    {
        if (!VfioUserAnswers.TryCheckSize(message, IoFdsSize, out fault))
            return false;
        var request = message.Read<VfioUserIoFds>();
        if (request.Flags != 0 || request.Count != 0)
            return Refuse(Errno.EINVAL, "flags and count are 0 in a request", out fault);
        if (!handle.TryGetRegionInfo(request.Index, out _, out fault))
            return false;
        if (!message.WantsReply)
            return true;
        // A doorbell whose descriptor does not fit into the message is rung by REGION_WRITE.
        var doorbells = handle.GetDoorbells(request.Index).Take(Math.Min(descriptors, most)).ToArray();
        var size = IoFdsSize + (doorbells.Length * IoFdSize);
        var whole = request.ArgSize >= (uint)size;
        if (whole && doorbells.Length > 0 && !TryAttachDoorbells(request.Index, doorbells, out fault))
            return false;
        var length = whole ? size : IoFdsSize;
        if (!_answers.TryBegin(message, length, out var reply))
            return true;
        MemoryMarshal.Write(reply, new VfioUserIoFds { ArgSize = (uint)size, Index = request.Index, Count = (uint)doorbells.Length });
        if (!whole || doorbells.Length == 0)
            return _answers.Keep(length);
        var ports = IsPortRegion(request.Index) ? IoEventFdPio : 0;
        for (var i = 0; i < doorbells.Length; i++)
        {
            MemoryMarshal.Write(reply[(IoFdsSize + (i * IoFdSize))..], new VfioUserIoFd
            {
                Offset = doorbells[i].Offset,
                Size = (ulong)doorbells[i].Size,
                DescriptorIndex = (uint)i,
                Type = IoFdTypeEventFd,
                Flags = ports | (doorbells[i].Match is null ? 0 : IoEventFdDataMatch),
                DataMatch = doorbells[i].Match ?? 0,
            });
        }

        return _answers.Send(length, [.. _doorbells[request.Index].Select(signal => signal.Descriptor)]);
    }

    internal bool TrySetIrqs(in VfioUserMessage message, out Fault fault)
    {
        if (!VfioUserAnswers.TryCheckSize(message, IrqSetSize, out fault))
            return false;
        var request = message.Read<VfioUserIrqSet>();
        var flags = (VfioIrqSetFlags)request.Flags;
        var bools = message.Payload[IrqSetSize..];
        if (bools.Length != (flags.HasFlag(VfioIrqSetFlags.DataBool) ? request.Count : 0))
            return Refuse(Errno.EINVAL, "the message's size is not that of its data", out fault);
        var signals = message.DescriptorCount == 0 ? [] : new EventFd?[message.DescriptorCount];
        if (signals.Length > 0 && (!flags.HasFlag(VfioIrqSetFlags.DataEventFd) || (uint)signals.Length != request.Count))
            return Refuse(Errno.EINVAL, "the number of descriptors is not that of the interrupts", out fault);
        try
        {
            for (var i = 0; i < signals.Length; i++)
            {
                var descriptor = message.TakeDescriptor();
                if (EventFd.TryAdopt(descriptor, out signals[i], out fault))
                    continue;
                descriptor.Dispose();
                return false;
            }

            var set = new VfioIrqSet
            {
                Flags = flags,
                Index = request.Index,
                Start = request.Start,
                Count = request.Count,
                Bools = bools,
                EventFds = signals,
            };
            return handle.TrySetIrqs(set, out fault) && _answers.Echo(message, 0, out fault);
        }
        finally
        {
            foreach (var signal in signals)
                signal?.Dispose();
        }
    }

    // Made when first asked for, and the same ones for who asks again.
    private bool TryAttachDoorbells(uint region, VfioDoorbell[] doorbells, out Fault fault)
    {
        fault = Fault.None;
        if (_doorbells.ContainsKey(region))
            return true;
        var signals = new List<EventFd>();
        foreach (var doorbell in doorbells)
        {
            var signal = new EventFd();
            signals.Add(signal);
            if (handle.TryAttachDoorbell(region, doorbell, signal, out fault))
                continue;
            for (var i = 0; i < signals.Count; i++)
            {
                if (i < signals.Count - 1)
                    handle.TryAttachDoorbell(region, doorbells[i], null, out _);
                signals[i].Dispose();
            }

            return false;
        }

        _doorbells.Add(region, signals);
        return true;
    }

    private bool IsPortRegion(uint region)
    {
        Span<byte> register = stackalloc byte[4];
        return _info.IsPci && region < BarRegions && handle.TryRead(ConfigRegion, 0x10 + (4 * region), register, out _) && (register[0] & 1) != 0;
    }
}
