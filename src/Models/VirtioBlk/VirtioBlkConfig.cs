using System.Buffers.Binary;
using Virtbus.Block;

namespace Virtbus.Models.VirtioBlk;

/// <summary>
/// Features, request types and the configuration space of a virtio block device (VIRTIO 1.2, 5.2), by the standard's names. Features are bit
/// numbers.
/// </summary>
public static class VirtioBlkConfig
{
    /// <summary>size_max is valid: the most bytes of a segment. Devices of ours do not offer it.</summary>
    public const int VIRTIO_BLK_F_SIZE_MAX = 1;

    /// <summary>seg_max is valid.</summary>
    public const int VIRTIO_BLK_F_SEG_MAX = 2;

    /// <summary>The disk takes no writes.</summary>
    public const int VIRTIO_BLK_F_RO = 5;

    /// <summary>blk_size is valid.</summary>
    public const int VIRTIO_BLK_F_BLK_SIZE = 6;

    /// <summary>The disk has a cache and takes the flush request.</summary>
    public const int VIRTIO_BLK_F_FLUSH = 9;

    /// <summary>physical_block_exp, alignment_offset, min_io_size and opt_io_size are valid.</summary>
    public const int VIRTIO_BLK_F_TOPOLOGY = 10;

    /// <summary>The driver may switch the cache between writeback and writethrough.</summary>
    public const int VIRTIO_BLK_F_CONFIG_WCE = 11;

    /// <summary>num_queues is valid.</summary>
    public const int VIRTIO_BLK_F_MQ = 12;

    /// <summary>The disk takes the discard request, and its fields in the configuration are valid.</summary>
    public const int VIRTIO_BLK_F_DISCARD = 13;

    /// <summary>The disk takes the write zeroes request, and its fields in the configuration are valid.</summary>
    public const int VIRTIO_BLK_F_WRITE_ZEROES = 14;

    /// <summary>Size of struct virtio_blk_config in bytes; fields of features that are not offered read as zero.</summary>
    public const int Size = 96;

    /// <summary>The most segments of data that one request may have.</summary>
    public const int SegMax = 126;

    /// <summary>Byte offset of the field writeback, the only one that a driver may write.</summary>
    public const int WritebackOffset = 32;

    /// <summary>The most sectors that one discard or write zeroes request is about, 1 GiB: it bounds how long one takes.</summary>
    public const uint MaxRangeSectors = 1 << 21;

    internal const int SectorShift = 9;
    internal const int RangeSize = 16;
    internal const int HeaderSize = 16;
    internal const int IdSize = 20;

    /// <summary>Type of a request: reads sectors (5.2.6).</summary>
    public const uint VIRTIO_BLK_T_IN = 0;

    /// <summary>Type of a request: writes sectors.</summary>
    public const uint VIRTIO_BLK_T_OUT = 1;

    /// <summary>Type of a request: makes what was written durable.</summary>
    public const uint VIRTIO_BLK_T_FLUSH = 4;

    /// <summary>Type of a request: reads the serial, 20 bytes.</summary>
    public const uint VIRTIO_BLK_T_GET_ID = 8;

    /// <summary>Type of a request: the sectors of a range are not needed any more. Its data is one struct virtio_blk_discard_write_zeroes.</summary>
    public const uint VIRTIO_BLK_T_DISCARD = 11;

    /// <summary>Type of a request: makes the sectors of a range zeros. Its data is as that of a discard.</summary>
    public const uint VIRTIO_BLK_T_WRITE_ZEROES = 13;

    /// <summary>Flag of a range that is made zeros: its room may be given back.</summary>
    public const uint VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP = 1;

    /// <summary>Status of a request: done.</summary>
    public const byte VIRTIO_BLK_S_OK = 0;

    /// <summary>Status of a request: it failed.</summary>
    public const byte VIRTIO_BLK_S_IOERR = 1;

    /// <summary>Status of a request: the device does not know its type.</summary>
    public const byte VIRTIO_BLK_S_UNSUPP = 2;

    internal static byte[] Build(IBlockBackend backend, int queueCount)
    {
        var space = new byte[Size];
        var info = backend.Info;
        SetCapacity(space, info);
        BinaryPrimitives.WriteUInt32LittleEndian(space.AsSpan(12), SegMax);
        BinaryPrimitives.WriteUInt32LittleEndian(space.AsSpan(20), (uint)info.BlockSize);
        if (HasTopology(info))
        {
            // In logical blocks (VIRTIO 1.3, 5.2.4), as far as the fields go.
            (space[24], space[25]) = ((byte)info.PhysicalBlockExponent, (byte)info.AlignmentOffset);
            BinaryPrimitives.WriteUInt16LittleEndian(space.AsSpan(26), (ushort)Math.Min(info.MinimumIoSize / info.BlockSize, ushort.MaxValue));
            BinaryPrimitives.WriteUInt32LittleEndian(space.AsSpan(28), (uint)(info.OptimalIoSize / info.BlockSize));
        }

        BinaryPrimitives.WriteUInt16LittleEndian(space.AsSpan(34), (ushort)queueCount);
        if (Discards(info))
        {
            BinaryPrimitives.WriteUInt32LittleEndian(space.AsSpan(36), MostSectors(info.MaxDiscard));
            BinaryPrimitives.WriteUInt32LittleEndian(space.AsSpan(40), 1);
            BinaryPrimitives.WriteUInt32LittleEndian(space.AsSpan(44), (uint)info.DiscardAlignment >> SectorShift);
        }

        if (WritesZeroes(info))
        {
            BinaryPrimitives.WriteUInt32LittleEndian(space.AsSpan(48), MostSectors(info.MaxWriteZeroes));
            BinaryPrimitives.WriteUInt32LittleEndian(space.AsSpan(52), 1);
            space[56] = 1;
        }

        return space;
    }

    // Whether the back end has an opinion that the fields can hold: where physical blocks begin is no hint that may be cut.
    internal static bool HasTopology(BlockInfo info) =>
        info is { PhysicalBlockExponent: >= 0 and <= byte.MaxValue, AlignmentOffset: >= 0 and <= byte.MaxValue, MinimumIoSize: >= 0, OptimalIoSize: >= 0 }
        && (info.PhysicalBlockExponent | info.AlignmentOffset | info.MinimumIoSize | info.OptimalIoSize) != 0;

    internal static bool Discards(BlockInfo info) => !info.IsReadOnly && info.MaxDiscard > 0;

    internal static bool WritesZeroes(BlockInfo info) => !info.IsReadOnly && info.MaxWriteZeroes > 0;

    internal static uint MostSectors(long bytes) => (uint)Math.Min(bytes >> SectorShift, MaxRangeSectors);

    internal static void SetCapacity(Span<byte> space, BlockInfo info) => BinaryPrimitives.WriteUInt64LittleEndian(space, (ulong)info.Capacity >> SectorShift);
}
