using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Remote.Pci.HostVfio;

/// <summary>A function of this host, which its kernel hands out by vfio.</summary>
internal sealed class HostVfioLink(string name, HostVfioDevice device) : IRemoteLink
{
    private const uint Mappable = 4;
    private const int Regions = 9;

    private readonly (VfioRegionInfo Info, ulong Offset)?[] _regions = new (VfioRegionInfo, ulong)?[Regions];

    public string Name => name;

    public bool IsPeer => false;

    public bool CanReset { get; } = (device.GetFlags() & 1) != 0;

    // The kernel pins what is mapped, piece by piece, so that what is too much is known early.
    public ulong LargestMap => 1UL << 30;

    // The host does not go; that it wants its function back is an interrupt.
    public void SetLostCallback(Action lost)
    {
    }

    public VirtbusException Refuse(Fault fault) => new(fault.Errno,
        $"Function {name} of this host cannot be used: {fault.Errno}, {fault.Message}. Look at it with 'lspci -vvs {name}'.");

    public bool TryGetRegion(uint index, out VfioRegionInfo info, out Fault fault)
    {
        fault = Fault.None;
        TryFind(index, out info, out _);
        return true;
    }

    public IReadOnlyList<(VfioDoorbell Register, EventFd Signal)> GetDoorbells(uint region) => [];

    public uint GetVectors(uint index) => device.GetVectors(index);

    public bool TryRead(uint region, ulong offset, Span<byte> destination, out Fault fault) =>
        Answer(TryFind(region, out _, out var start) && device.Read(start + offset, destination), "the host refused the read", out fault);

    public bool TryWrite(uint region, ulong offset, ReadOnlySpan<byte> source, out Fault fault) =>
        Answer(TryFind(region, out _, out var start) && device.Write(start + offset, source), "the host refused the write", out fault);

    public bool TrySetIrqs(in VfioIrqSet set, out Fault fault) =>
        Answer(device.SetIrqs((uint)set.Flags, set.Index, set.Start, set.Count, set.EventFds), "the host refused the interrupts", out fault);

    public bool TryReset(out Fault fault) => Answer(device.Reset(), "the host refused the reset", out fault);

    public bool TryMap(in RemoteMap map, out Fault fault) => map.Address == 0
        ? Answer(Errno.EFAULT, "the memory does not lie in one piece in this process", out fault)
        : Answer(device.Map(map.Address, map.Range.Start.Value, map.Range.Size, (uint)map.Access), "the host refused to map the memory", out fault);

    public bool TryUnmap(IovaRange range, out Fault fault) =>
        Answer(device.Unmap(range.Start.Value, range.Size), "the host refused to unmap the memory", out fault);

    public void Close(Fault reason)
    {
        // No call waits for the host.
    }

    public void Dispose() => device.Dispose();

    private bool TryFind(uint index, out VfioRegionInfo info, out ulong offset)
    {
        if (index < Regions && _regions[index] is { } known)
        {
            (info, offset) = known;
            return true;
        }

        info = new VfioRegionInfo(VfioRegionFlags.None, 0);
        if (index >= Regions || !device.TryGetRegion(index, out var flags, out var size, out offset))
        {
            offset = 0;
            return false;
        }

        // All of it: who knows where the MSI-X table is leaves its pages out.
        var isMappable = (flags & Mappable) != 0 && size % (ulong)Environment.SystemPageSize == 0;
        info = new VfioRegionInfo((VfioRegionFlags)(flags & 7), size) { Areas = isMappable ? [new VfioRegionArea(0, size, device.File, offset)] : [] };
        _regions[index] = (info, offset);
        return true;
    }

    private static bool Answer(bool done, string what, out Fault fault) => Answer(done ? Errno.None : Errno.EIO, what, out fault);

    private static bool Answer(Errno error, string what, out Fault fault)
    {
        fault = error == Errno.None ? Fault.None : new Fault(error, what);
        return error == Errno.None;
    }
}
