using System.Buffers.Binary;
using Virtbus.Block;
using Virtbus.Buses.Virtio;
using Virtbus.Platform;
using static Virtbus.Models.VirtioBlk.VirtioBlkConfig;

namespace Virtbus.Drivers.VirtioBlk;

/// <summary>What a device says of its disk (VIRTIO 1.3, 5.2.4), read in one piece and checked: nothing of it can lead the driver astray.</summary>
/// <param name="Info">Size, units and abilities.</param>
/// <param name="Queues">How many request queues it has, at least 1.</param>
/// <param name="MostSegments">The most segments of data of a request, at least 1.</param>
/// <param name="MostSegmentBytes">The most bytes of one segment, a multiple of the block.</param>
/// <param name="MayUnmap">Whether the room of what is made zeros may be given back.</param>
internal sealed record BlkConfig(BlockInfo Info, int Queues, int MostSegments, uint MostSegmentBytes, bool MayUnmap)
{
    private const int SectorShift = 9;
    private const int SectorSize = 1 << SectorShift;
    private const int MaxBlockSize = 65536;
    private const int MaxUnit = 1 << 24;
    private const int MayUnmapOffset = 56;
    private const int Size = MayUnmapOffset + 1;

    /// <summary>Reads it.</summary>
    /// <param name="device">The device; its features are settled.</param>
    /// <param name="serial">The disk's serial.</param>
    /// <param name="config">What it says.</param>
    /// <param name="fault">It can't be read, or no disk can be so (EINVAL).</param>
    internal static bool TryRead(VirtioBusDevice device, string serial, out BlkConfig? config, out Fault fault)
    {
        config = null;
        Span<byte> bytes = stackalloc byte[Size];
        bytes.Clear();
        if (!device.TryReadConfig(0, bytes[..LengthOf(device)], out fault))
            return false;
        var sectors = BinaryPrimitives.ReadUInt64LittleEndian(bytes);
        var block = device.Has(VIRTIO_BLK_F_BLK_SIZE) ? BinaryPrimitives.ReadUInt32LittleEndian(bytes[20..]) : SectorSize;
        var segment = device.Has(VIRTIO_BLK_F_SIZE_MAX) ? BinaryPrimitives.ReadUInt32LittleEndian(bytes[8..]) : uint.MaxValue;
        if (block is < SectorSize or > MaxBlockSize || !uint.IsPow2(block))
            return Refuse($"has blocks of {block} bytes", out fault);
        if (segment < block)
            return Refuse($"takes segments of {segment} bytes at most, which is less than its block of {block}", out fault);
        if (sectors > long.MaxValue >> SectorShift)
            return Refuse($"has {sectors} sectors", out fault);
        var info = new BlockInfo
        {
            Capacity = (long)(sectors << SectorShift) & -(long)block,
            BlockSize = (int)block,
            IsReadOnly = device.Has(VIRTIO_BLK_F_RO),
            HasWriteCache = HasCache(device, bytes),
            Serial = serial,
        };
        info = device.Has(VIRTIO_BLK_F_TOPOLOGY) ? WithTopology(info, bytes) : info;
        if (device.Has(VIRTIO_BLK_F_DISCARD))
        {
            var alignment = BinaryPrimitives.ReadUInt32LittleEndian(bytes[44..]);
            info = info with { MaxDiscard = Most(bytes[36..], block), DiscardAlignment = alignment is > 0 and <= MaxUnit >> SectorShift ? (int)(alignment << SectorShift) : (int)block };
        }

        if (device.Has(VIRTIO_BLK_F_WRITE_ZEROES))
            info = info with { MaxWriteZeroes = Most(bytes[48..], block) };
        var queues = device.Has(VIRTIO_BLK_F_MQ) ? BinaryPrimitives.ReadUInt16LittleEndian(bytes[34..]) : 1;
        var segments = device.Has(VIRTIO_BLK_F_SEG_MAX) ? BinaryPrimitives.ReadUInt32LittleEndian(bytes[12..]) : 1;
        config = new BlkConfig(info, Math.Max(queues, 1), (int)Math.Clamp(segments, 1, int.MaxValue), segment & ~(block - 1), bytes[MayUnmapOffset] != 0);
        return true;
    }

    // The space of a device may end behind what its features speak of.
    private static int LengthOf(VirtioBusDevice device)
    {
        ReadOnlySpan<(int Feature, int End)> fields =
        [
            (VIRTIO_BLK_F_WRITE_ZEROES, Size), (VIRTIO_BLK_F_DISCARD, 48), (VIRTIO_BLK_F_MQ, 36), (VIRTIO_BLK_F_CONFIG_WCE, WritebackOffset + 1),
            (VIRTIO_BLK_F_TOPOLOGY, 32), (VIRTIO_BLK_F_BLK_SIZE, 24), (VIRTIO_BLK_F_SEG_MAX, 16), (VIRTIO_BLK_F_SIZE_MAX, 12),
        ];
        foreach (var (feature, end) in fields)
        {
            if (device.Has(feature))
                return end;
        }

        return sizeof(ulong);
    }

    // 5.2.5: with CONFIG_WCE the field says it; else there is a cache when it can be flushed.
    private static bool HasCache(VirtioBusDevice device, ReadOnlySpan<byte> bytes) =>
        device.Has(VIRTIO_BLK_F_FLUSH) && (!device.Has(VIRTIO_BLK_F_CONFIG_WCE) || bytes[WritebackOffset] != 0);

    // Hints: one that makes no sense is none.
    private static BlockInfo WithTopology(BlockInfo info, ReadOnlySpan<byte> bytes)
    {
        var minimum = BinaryPrimitives.ReadUInt16LittleEndian(bytes[26..]) * (long)info.BlockSize;
        var optimal = BinaryPrimitives.ReadUInt32LittleEndian(bytes[28..]) * (long)info.BlockSize;
        var isUnit = (long)info.BlockSize << Math.Min((int)bytes[24], 32) <= MaxUnit;
        return info with
        {
            PhysicalBlockExponent = isUnit ? bytes[24] : 0,
            AlignmentOffset = isUnit && bytes[25] < 1 << bytes[24] ? bytes[25] : 0,
            MinimumIoSize = minimum <= int.MaxValue ? (int)minimum : 0,
            OptimalIoSize = optimal <= int.MaxValue ? (int)optimal : 0,
        };
    }

    // 0 is no limit, as Linux has it; what is less than a block can't be asked for.
    private static long Most(ReadOnlySpan<byte> field, uint block)
    {
        var sectors = BinaryPrimitives.ReadUInt32LittleEndian(field);
        return ((long)(sectors == 0 ? uint.MaxValue : sectors) << SectorShift) & -(long)block;
    }

    private static bool Refuse(string what, out Fault fault)
    {
        fault = new Fault(Errno.EINVAL, $"its disk {what}, which no disk can");
        return false;
    }
}
