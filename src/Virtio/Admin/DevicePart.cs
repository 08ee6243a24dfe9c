using System.Buffers.Binary;

namespace Virtbus.Virtio.Admin;

/// <summary>What a part of a member's state begins with (struct virtio_dev_part_hdr; VIRTIO 1.4, 2.14); its value follows, not padded.</summary>
/// <param name="Type">Which part, see the constants, in whose order parts stand.</param>
/// <param name="Flags">See <see cref="Optional"/>.</param>
/// <param name="Selector">Which one of its type: offset of a register (32 bits), number of a queue (16 bits), or what the device's type says.</param>
/// <param name="Length">Bytes of the value.</param>
public readonly record struct DevicePart(ushort Type, byte Flags, ulong Selector, uint Length)
{
    /// <summary>Features that the device offers; optional, compared and never set.</summary>
    public const ushort VIRTIO_DEV_PART_DEV_FEATURES = 0x100;

    /// <summary>Features that the driver took.</summary>
    public const ushort VIRTIO_DEV_PART_DRV_FEATURES = 0x101;

    /// <summary>One field of the common configuration.</summary>
    public const ushort VIRTIO_DEV_PART_PCI_COMMON_CFG = 0x102;

    /// <summary>Device status; 1 byte.</summary>
    public const ushort VIRTIO_DEV_PART_DEVICE_STATUS = 0x103;

    /// <summary>A queue: size, vector, enabled and reserved, of 2 bytes each, and its three addresses.</summary>
    public const ushort VIRTIO_DEV_PART_VQ_CFG = 0x104;

    /// <summary>A queue's notifications: place and data, of 2 bytes each, 4 reserved bytes.</summary>
    public const ushort VIRTIO_DEV_PART_VQ_NOTIFY_CFG = 0x105;

    /// <summary>First of the parts that the device's type defines.</summary>
    public const ushort FirstDeviceSpecific = 0x200;

    /// <summary>
    /// The whole state of a device of this program, as it is moved by other ways too (<see cref="Platform.StateWriter"/>): what the parts before have not, places in
    /// rings and what the driver set by a queue of commands, and what they have. The same for all types.
    /// </summary>
    public const ushort WholeState = FirstDeviceSpecific;

    /// <summary>VIRTIO_DEV_PART_F_OPTIONAL: who does not know it passes it over.</summary>
    public const byte Optional = 1;

    /// <summary>Bytes of the header.</summary>
    public const int Size = 16;

    /// <summary>Bytes of a queue's value.</summary>
    public const int QueueSize = 32;

    /// <summary>Bytes of the value about a queue's notifications.</summary>
    public const int QueueNotifySize = 8;

    private const int FlagsAt = 2;
    private const int SelectorAt = 4;
    private const int LengthAt = 12;

    /// <summary>Reads it.</summary>
    /// <param name="source">At least <see cref="Size"/> bytes.</param>
    public static DevicePart Read(ReadOnlySpan<byte> source) => new(
        BinaryPrimitives.ReadUInt16LittleEndian(source),
        source[FlagsAt],
        BinaryPrimitives.ReadUInt64LittleEndian(source[SelectorAt..]),
        BinaryPrimitives.ReadUInt32LittleEndian(source[LengthAt..]));

    /// <summary>Takes the first part off a run of them.</summary>
    /// <param name="parts">The parts; what is behind the first one when there is one, else as it was.</param>
    /// <param name="part">Its header.</param>
    /// <param name="value">Its value.</param>
    /// <returns>False at the end, and when what is there is cut off.</returns>
    public static bool TryTake(ref ReadOnlySpan<byte> parts, out DevicePart part, out ReadOnlySpan<byte> value)
    {
        part = default;
        value = default;
        if (parts.Length < Size)
            return false;
        part = Read(parts);
        if (part.Length > (uint)(parts.Length - Size))
            return false;
        value = parts.Slice(Size, (int)part.Length);
        parts = parts[(Size + (int)part.Length)..];
        return true;
    }

    /// <summary>Writes it.</summary>
    /// <param name="destination">Where to; at least <see cref="Size"/> bytes.</param>
    public void Write(Span<byte> destination)
    {
        var whole = destination[..Size];
        whole.Clear();
        BinaryPrimitives.WriteUInt16LittleEndian(whole, Type);
        whole[FlagsAt] = Flags;
        BinaryPrimitives.WriteUInt64LittleEndian(whole[SelectorAt..], Selector);
        BinaryPrimitives.WriteUInt32LittleEndian(whole[LengthAt..], Length);
    }
}
