using System.Buffers.Binary;

namespace Virtbus.Virtio.Admin;

/// <summary>A place where a member takes notifications of a legacy driver (struct virtio_pci_legacy_notify_info; VIRTIO 1.4, 2.12.1.1.5).</summary>
/// <param name="Flags">Whose BAR it is in, see the constants.</param>
/// <param name="Bar">Which BAR, 1 to 5.</param>
/// <param name="Offset">First byte there, even.</param>
public readonly record struct LegacyNotifyInfo(byte Flags, byte Bar, ulong Offset)
{
    /// <summary>The list ends before it.</summary>
    public const byte VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_END = 0;

    /// <summary>A BAR of the owner.</summary>
    public const byte VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_DEV = 1;

    /// <summary>A BAR of the member.</summary>
    public const byte VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_MEM = 2;

    /// <summary>Bytes of one.</summary>
    public const int Size = 16;

    private const int OffsetAt = 8;

    /// <summary>Reads one.</summary>
    /// <param name="source">At least <see cref="Size"/> bytes.</param>
    public static LegacyNotifyInfo Read(ReadOnlySpan<byte> source) => new(source[0], source[1], BinaryPrimitives.ReadUInt64LittleEndian(source[OffsetAt..]));

    /// <summary>Writes it.</summary>
    /// <param name="destination">Where to; at least <see cref="Size"/> bytes.</param>
    public void Write(Span<byte> destination)
    {
        var whole = destination[..Size];
        whole.Clear();
        (whole[0], whole[1]) = (Flags, Bar);
        BinaryPrimitives.WriteUInt64LittleEndian(whole[OffsetAt..], Offset);
    }
}
