namespace Virtbus.Virtio.Rings;

/// <summary>Sizes and flags of a packed virtqueue (VIRTIO 1.2, 2.8), named as the standard names them.</summary>
public static class PackedRing
{
    /// <summary>The largest queue size that a packed ring may have; it need not be a power of two (2.8.10.1).</summary>
    public const int MaxSize = 32768;

    /// <summary>Size in bytes of one descriptor (2.8.14).</summary>
    public const int DescriptorSize = 16;

    /// <summary>Size in bytes of the driver area, and of the device area (2.8.14).</summary>
    public const int EventSize = 4;

    /// <summary>The buffer goes on in the next descriptor.</summary>
    public const ushort VIRTQ_DESC_F_NEXT = 1;

    /// <summary>The device writes the buffer; in a used descriptor: it wrote to it.</summary>
    public const ushort VIRTQ_DESC_F_WRITE = 2;

    /// <summary>The buffer holds a table of descriptors.</summary>
    public const ushort VIRTQ_DESC_F_INDIRECT = 4;

    /// <summary>The driver's wrap counter when it made the descriptor available.</summary>
    public const ushort VIRTQ_DESC_F_AVAIL = 1 << 7;

    /// <summary>The other one's in a descriptor that is available, the same one's in one that is used.</summary>
    public const ushort VIRTQ_DESC_F_USED = 1 << 15;

    /// <summary>In an event area: each descriptor is told of.</summary>
    public const ushort RING_EVENT_FLAGS_ENABLE = 0;

    /// <summary>In an event area: none is told of.</summary>
    public const ushort RING_EVENT_FLAGS_DISABLE = 1;

    /// <summary>In an event area, with VIRTIO_F_EVENT_IDX: the one of the offset and wrap counter beside it is told of.</summary>
    public const ushort RING_EVENT_FLAGS_DESC = 2;

    // The offset has 15 bits, the wrap counter is above.
    internal const int WrapShift = 15;
    internal const int FlagsShift = 16;

    /// <summary>Size in bytes of the descriptor ring.</summary>
    /// <param name="size">Queue size.</param>
    /// <returns>Bytes.</returns>
    public static uint DescriptorAreaSize(int size) => (uint)size * DescriptorSize;

    /// <summary>The bits that say whose a descriptor is.</summary>
    internal static ushort Available(bool wrap) => wrap ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED;

    /// <summary>The bits of a used descriptor.</summary>
    internal static ushort Used(bool wrap) => wrap ? (ushort)(VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED) : (ushort)0;

    internal static bool IsAvailable(ushort flags, bool wrap) => (flags & (VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED)) == Available(wrap);

    internal static bool IsUsed(ushort flags, bool wrap) => (flags & (VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED)) == Used(wrap);

    /// <summary>A place and its wrap counter, as an event area and a notification have them.</summary>
    internal static ushort Place(int place, bool wrap) => (ushort)(place | (wrap ? 1 << WrapShift : 0));

    /// <summary>An event area as one word.</summary>
    internal static uint Event(ushort place, ushort flags) => place | ((uint)flags << FlagsShift);

    /// <summary>Whether the other side wants to be told, by its event area (2.8.10).</summary>
    /// <param name="wish">Its event area.</param>
    /// <param name="eventIndex">Whether VIRTIO_F_EVENT_IDX was negotiated.</param>
    /// <param name="size">Queue size.</param>
    /// <param name="place">Where this side is now.</param>
    /// <param name="wrap">Its wrap counter there.</param>
    /// <param name="slots">How many descriptors it went on since it asked last.</param>
    internal static bool NeedEvent(uint wish, bool eventIndex, int size, int place, bool wrap, int slots)
    {
        var flags = (ushort)(wish >> FlagsShift);
        if (flags != RING_EVENT_FLAGS_DESC || !eventIndex)
            return flags != RING_EVENT_FLAGS_DISABLE;
        var waitedFor = (int)(wish & ((1 << WrapShift) - 1));
        // One of the lap before lies as many places back as the ring has.
        if (((wish >> WrapShift) & 1) != (wrap ? 1u : 0u))
            waitedFor -= size;
        return SplitRing.NeedEvent((ushort)waitedFor, (ushort)place, (ushort)(place - slots));
    }
}
