using Virtbus.Virtio.Rings;

namespace Virtbus.Drivers.VirtioBlk;

/// <summary>
/// Where things stand in the memory of a channel: all headers, all ranges, all statuses, all tables, and then the data that is copied. Slots go round, so headers
/// and statuses of requests that go together share cache lines, which travel between device and driver once for all of them. A line of statuses is of few
/// slots, since both sides write to it.
/// </summary>
internal static class BlkLayout
{
    /// <summary>The most pieces that are out at once.</summary>
    internal const int MostSlots = 64;

    /// <summary>The most descriptors of a piece that has a table.</summary>
    internal const int MostParts = 28;

    /// <summary>The most bytes of a piece whose data is copied.</summary>
    internal const int CopyBytes = 64 << 10;

    // struct virtio_blk_req without data and status, and struct virtio_blk_discard_write_zeroes (5.2.6).
    internal const int HeaderBytes = 16;
    internal const int RangeBytes = 16;

    private const int LineBytes = 64;
    private const int LineStatuses = 8;
    private const int Ranges = MostSlots * HeaderBytes;
    private const int Statuses = Ranges + (MostSlots * RangeBytes);
    private const int Tables = Statuses + (MostSlots / LineStatuses * LineBytes);
    private const int TableBytes = MostParts * SplitRing.DescriptorSize;

    internal static int SlotsFor(int depth) => Math.Min(depth, MostSlots);

    /// <summary>Bytes of a channel of that depth.</summary>
    internal static ulong BytesFor(int depth) => DataOf(SlotsFor(depth), depth);

    internal static ulong HeaderOf(int slot) => (ulong)slot * HeaderBytes;

    internal static ulong RangeOf(int slot) => Ranges + ((ulong)slot * RangeBytes);

    internal static ulong StatusOf(int slot) => Statuses + ((ulong)(slot / LineStatuses) * LineBytes) + (ulong)(slot % LineStatuses);

    internal static ulong TableOf(int slot) => Tables + ((ulong)slot * TableBytes);

    internal static ulong DataOf(int slot, int depth) =>
        ((TableOf(SlotsFor(depth)) + (CopyBytes - 1)) & ~(CopyBytes - 1UL)) + ((ulong)slot * CopyBytes);
}
