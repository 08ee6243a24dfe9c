using System.Buffers.Binary;

namespace Virtbus.Virtio.Admin;

/// <summary>
/// Which object a command is about (struct virtio_admin_cmd_resource_obj_cmd_hdr; VIRTIO 1.4, 2.12.1.3). CREATE, QUERY and MODIFY have 64 bits of flags behind it, all
/// reserved.
/// </summary>
/// <param name="Type">Its kind, see the constants.</param>
/// <param name="Id">Its number among those of the kind, chosen by the driver, below the limit that it set.</param>
public readonly record struct ResourceObject(ushort Type, uint Id)
{
    /// <summary>For parts of a member's state; 8 bytes of data, the first one <see cref="PartsGet"/> or <see cref="PartsSet"/>.</summary>
    public const ushort VIRTIO_RESOURCE_OBJ_DEV_PARTS = 0;

    /// <summary>VIRTIO_RESOURCE_OBJ_DEV_PARTS_TYPE_GET: it reads parts.</summary>
    public const byte PartsGet = 0;

    /// <summary>VIRTIO_RESOURCE_OBJ_DEV_PARTS_TYPE_SET: it sets parts.</summary>
    public const byte PartsSet = 1;

    /// <summary>Bytes of the header.</summary>
    public const int Size = 8;

    /// <summary>Bytes of the flags behind it.</summary>
    public const int FlagsSize = 8;

    /// <summary>Bytes of the data of an object for parts.</summary>
    public const int PartsSize = 8;

    private const int IdAt = 4;

    /// <summary>Reads it.</summary>
    /// <param name="source">Its bytes; what is missing counts as 0.</param>
    public static ResourceObject Read(ReadOnlySpan<byte> source)
    {
        Span<byte> whole = stackalloc byte[Size];
        whole.Clear();
        source[..Math.Min(source.Length, Size)].CopyTo(whole);
        return new ResourceObject(BinaryPrimitives.ReadUInt16LittleEndian(whole), BinaryPrimitives.ReadUInt32LittleEndian(whole[IdAt..]));
    }

    /// <summary>Writes it.</summary>
    /// <param name="destination">Where to; at least <see cref="Size"/> bytes.</param>
    public void Write(Span<byte> destination)
    {
        var whole = destination[..Size];
        whole.Clear();
        BinaryPrimitives.WriteUInt16LittleEndian(whole, Type);
        BinaryPrimitives.WriteUInt32LittleEndian(whole[IdAt..], Id);
    }
}
