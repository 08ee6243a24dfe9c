using System.Buffers.Binary;
using Virtbus.Block;

namespace Virtbus.Models.VirtioBlk;

/// <summary>
/// Features, request types and the configuration space of a virtio block device (VIRTIO 1.2, 5.2), by the standard's names. Features are bit
/// numbers.
/// </summary>
public static class VirtioBlkConfig
{
    /// <summary>seg_max is valid.</summary>
    public const int VIRTIO_BLK_F_SEG_MAX = 2;

    /// <summary>The disk takes no writes.</summary>
    public const int VIRTIO_BLK_F_RO = 5;

    /// <summary>blk_size is valid.</summary>
    public const int VIRTIO_BLK_F_BLK_SIZE = 6;

    /// <summary>The disk has a cache and takes the flush request.</summary>
    public const int VIRTIO_BLK_F_FLUSH = 9;

    /// <summary>The driver may switch the cache between writeback and writethrough.</summary>
    public const int VIRTIO_BLK_F_CONFIG_WCE = 11;

    /// <summary>num_queues is valid.</summary>
    public const int VIRTIO_BLK_F_MQ = 12;

    /// <summary>Size of struct virtio_blk_config in bytes; fields of features that are not offered read as zero.</summary>
    public const int Size = 96;

    /// <summary>The most segments of data that one request may have.</summary>
    public const int SegMax = 126;

    /// <summary>Byte offset of the field writeback, the only one that a driver may write.</summary>
    public const int WritebackOffset = 32;

    internal const int SectorShift = 9;
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
        BinaryPrimitives.WriteUInt16LittleEndian(space.AsSpan(34), (ushort)queueCount);
        return space;
    }

    internal static void SetCapacity(Span<byte> space, BlockInfo info) => BinaryPrimitives.WriteUInt64LittleEndian(space, (ulong)info.Capacity >> SectorShift);
}
