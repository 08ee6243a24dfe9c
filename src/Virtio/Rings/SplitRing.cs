namespace Virtbus.Virtio.Rings;

/// <summary>Sizes and flags of a split virtqueue (VIRTIO 1.2, 2.7), named as the standard names them.</summary>
public static class SplitRing
{
    /// <summary>The largest queue size that a split ring may have (2.7).</summary>
    public const int MaxSize = 32768;

    /// <summary>Size in bytes of one descriptor (2.7.5).</summary>
    public const int DescriptorSize = 16;

    /// <summary>The chain goes on at the descriptor's next field.</summary>
    public const ushort VIRTQ_DESC_F_NEXT = 1;

    /// <summary>The device writes the buffer; otherwise it reads it.</summary>
    public const ushort VIRTQ_DESC_F_WRITE = 2;

    /// <summary>The buffer holds a table of descriptors.</summary>
    public const ushort VIRTQ_DESC_F_INDIRECT = 4;

    /// <summary>In the available ring: the driver wants no used buffer notifications.</summary>
    public const ushort VIRTQ_AVAIL_F_NO_INTERRUPT = 1;

    /// <summary>In the used ring: the device wants no available buffer notifications.</summary>
    public const ushort VIRTQ_USED_F_NO_NOTIFY = 1;

    /// <summary>Size in bytes of the descriptor table.</summary>
    /// <param name="size">Queue size.</param>
    /// <returns>Bytes.</returns>
    public static uint DescriptorAreaSize(int size) => (uint)size * DescriptorSize;

    /// <summary>Size in bytes of the available ring, used_event included.</summary>
    /// <param name="size">Queue size.</param>
    /// <returns>Bytes.</returns>
    public static uint DriverAreaSize(int size) => 6 + (2 * (uint)size);

    /// <summary>Size in bytes of the used ring, avail_event included.</summary>
    /// <param name="size">Queue size.</param>
    /// <returns>Bytes.</returns>
    public static uint DeviceAreaSize(int size) => 6 + (8 * (uint)size);

    /// <summary>Whether moving an index from <paramref name="old"/> to <paramref name="now"/> passes the one that the other side waits for (2.7.10).</summary>
    /// <param name="waitedFor">The event index of the other side.</param>
    /// <param name="now">The index after.</param>
    /// <param name="old">The index before.</param>
    /// <returns>Whether the other side wants to be told.</returns>
    public static bool NeedEvent(ushort waitedFor, ushort now, ushort old) => (ushort)(now - waitedFor - 1) < (ushort)(now - old);
}
