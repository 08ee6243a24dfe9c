using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Transports.HostVfio;

/// <summary>The host's kernel as the other end.</summary>
internal sealed class HostVfioLink(HostVfioDevice device) : IVfioLink
{
    private const uint Mappable = 4;
    private const int Regions = 9;

    private readonly (VfioRegionInfo Info, ulong Offset)?[] _regions = new (VfioRegionInfo, ulong)?[Regions];

    public bool CanReset { get; } = (device.GetFlags() & 1) != 0;

    public bool TryGetRegion(uint index, out VfioRegionInfo info)
    {
        info = TryFind(index, out var found, out _) ? found : new VfioRegionInfo(VfioRegionFlags.None, 0);
        return info.Size > 0;
    }

    public uint GetVectors(uint index) => device.GetVectors(index);

    public bool TryRead(uint region, ulong offset, Span<byte> destination) => TryFind(region, out _, out var start) && device.Read(start + offset, destination);

    public bool TryWrite(uint region, ulong offset, ReadOnlySpan<byte> source) => TryFind(region, out _, out var start) && device.Write(start + offset, source);

    public bool TrySetIrqs(in VfioIrqSet set, out Fault fault) =>
        Answer(device.SetIrqs((uint)set.Flags, set.Index, set.Start, set.Count, set.EventFds), "the host refused the interrupts", out fault);

    public bool TryReset(out Fault fault) => Answer(device.Reset(), "the host refused the reset", out fault);

    public bool TryMap(IovaRange range, nint address, DmaAccess access, out Fault fault) =>
        Answer(device.Map(address, range.Start.Value, range.Size, (uint)access), "the host refused to map the memory", out fault);

    public bool TryUnmap(IovaRange range, out Fault fault) => Answer(device.Unmap(range.Start.Value, range.Size), "the host refused to unmap the memory", out fault);

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
        // All of it: who knows where the MSI-X table is leaves that BAR out.
        var isMappable = (flags & Mappable) != 0 && size % (ulong)Environment.SystemPageSize == 0;
        info = new VfioRegionInfo((VfioRegionFlags)(flags & 7), size) { Areas = isMappable ? [new VfioRegionArea(0, size, device.File, offset)] : [] };
        _regions[index] = (info, offset);
        return true;
    }

    private static bool Answer(Errno error, string what, out Fault fault)
    {
        fault = error == Errno.None ? Fault.None : new Fault(error, what);
        return error == Errno.None;
    }
}
