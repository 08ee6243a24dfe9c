using System.Buffers.Binary;

namespace Virtbus.Virtio.Admin;

/// <summary>What the answer to an administration command begins with (VIRTIO 1.4, 2.12.1); its result follows.</summary>
/// <param name="Status">What became of it, see <see cref="AdminStatus"/>.</param>
/// <param name="Qualifier">Why it failed, see <see cref="AdminQualifier"/>.</param>
public readonly record struct AdminAnswer(ushort Status, ushort Qualifier)
{
    /// <summary>Bytes before the result.</summary>
    public const int Size = 8;

    /// <summary>The command was done.</summary>
    public static AdminAnswer Ok => default;

    /// <summary>It would have to wait for somebody: it is to be tried again.</summary>
    public static AdminAnswer TryAgain => new(AdminStatus.VIRTIO_ADMIN_STATUS_EAGAIN, AdminQualifier.VIRTIO_ADMIN_STATUS_Q_TRYAGAIN);

    /// <summary>Its result has no room.</summary>
    public static AdminAnswer NoRoom => new(AdminStatus.VIRTIO_ADMIN_STATUS_ENOMEM, AdminQualifier.VIRTIO_ADMIN_STATUS_Q_NORESOURCE);

    /// <summary>A field of its data makes no sense.</summary>
    public static AdminAnswer InvalidField => Invalid(AdminQualifier.VIRTIO_ADMIN_STATUS_Q_INVALID_FIELD);

    /// <summary>It makes no sense.</summary>
    /// <param name="qualifier">Why.</param>
    public static AdminAnswer Invalid(ushort qualifier) => new(AdminStatus.VIRTIO_ADMIN_STATUS_EINVAL, qualifier);

    /// <summary>Whether the command was done.</summary>
    public bool IsOk => Status == AdminStatus.VIRTIO_ADMIN_STATUS_OK;

    /// <summary>Reads it.</summary>
    /// <param name="source">What the device has written; what is missing counts as 0 (2.13).</param>
    public static AdminAnswer Read(ReadOnlySpan<byte> source)
    {
        Span<byte> whole = stackalloc byte[Size];
        whole.Clear();
        source[..Math.Min(source.Length, Size)].CopyTo(whole);
        return new AdminAnswer(BinaryPrimitives.ReadUInt16LittleEndian(whole), BinaryPrimitives.ReadUInt16LittleEndian(whole[2..]));
    }

    /// <summary>Writes it.</summary>
    /// <param name="destination">Where to; at least <see cref="Size"/> bytes.</param>
    public void Write(Span<byte> destination)
    {
        var whole = destination[..Size];
        whole.Clear();
        BinaryPrimitives.WriteUInt16LittleEndian(whole, Status);
        BinaryPrimitives.WriteUInt16LittleEndian(whole[2..], Qualifier);
    }
}
