using System.Buffers.Binary;
using static Virtbus.Virtio.Admin.AdminOpcode;

namespace Virtbus.Virtio.Admin;

/// <summary>A set of commands as LIST_QUERY and LIST_USE carry it (struct virtio_admin_cmd_list; VIRTIO 1.4, 2.12.1): the first 64, none has a higher number.</summary>
/// <param name="Bits">Bit n for opcode n.</param>
public readonly record struct AdminCommandSet(ulong Bits)
{
    /// <summary>Bytes of the list with one word.</summary>
    public const int Size = 8;

    /// <summary>The two by which the others are agreed on; the only ones after a reset.</summary>
    public static AdminCommandSet Lists => Of(VIRTIO_ADMIN_CMD_LIST_QUERY, VIRTIO_ADMIN_CMD_LIST_USE);

    /// <summary>Access to a member's legacy registers: all of them or none.</summary>
    public static AdminCommandSet LegacyAccess => Of(
        VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE,
        VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ,
        VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_WRITE,
        VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ);

    /// <summary>That, and the place of notifications.</summary>
    public static AdminCommandSet Legacy => LegacyAccess | Of(VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO);

    /// <summary>Capabilities: all of them or none.</summary>
    public static AdminCommandSet Capabilities => Of(VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY, VIRTIO_ADMIN_CMD_DEVICE_CAP_GET, VIRTIO_ADMIN_CMD_DRIVER_CAP_SET);

    /// <summary>Resource objects.</summary>
    public static AdminCommandSet Objects => Of(
        VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_QUERY, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_MODIFY, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY);

    /// <summary>A member's state, with the objects that it needs: all of them or none.</summary>
    public static AdminCommandSet DeviceParts => Objects | Of(
        VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET, VIRTIO_ADMIN_CMD_DEV_PARTS_GET, VIRTIO_ADMIN_CMD_DEV_PARTS_SET, VIRTIO_ADMIN_CMD_DEV_MODE_SET);

    /// <summary>What both have.</summary>
    /// <param name="left">One.</param>
    /// <param name="right">The other.</param>
    public static AdminCommandSet operator &(AdminCommandSet left, AdminCommandSet right) => new(left.Bits & right.Bits);

    /// <summary>What either has.</summary>
    /// <param name="left">One.</param>
    /// <param name="right">The other.</param>
    public static AdminCommandSet operator |(AdminCommandSet left, AdminCommandSet right) => new(left.Bits | right.Bits);

    /// <summary>Makes a set.</summary>
    /// <param name="opcodes">Its commands, each below 64.</param>
    public static AdminCommandSet Of(params ReadOnlySpan<ushort> opcodes)
    {
        var bits = 0UL;
        foreach (var opcode in opcodes)
            bits |= 1UL << opcode;
        return new AdminCommandSet(bits);
    }

    /// <summary>Reads a list.</summary>
    /// <param name="source">Words of 64 bits; what is missing of the first one counts as 0.</param>
    /// <param name="commands">The commands below 64.</param>
    /// <returns>False when it has commands above.</returns>
    public static bool TryRead(ReadOnlySpan<byte> source, out AdminCommandSet commands)
    {
        Span<byte> first = stackalloc byte[Size];
        first.Clear();
        source[..Math.Min(source.Length, Size)].CopyTo(first);
        commands = new AdminCommandSet(BinaryPrimitives.ReadUInt64LittleEndian(first));
        return source.Length <= Size || !source[Size..].ContainsAnyExcept((byte)0);
    }

    /// <summary>Whether it has a command.</summary>
    /// <param name="opcode">Any number.</param>
    public bool Has(ushort opcode) => opcode < 64 && (Bits & (1UL << opcode)) != 0;

    /// <summary>Whether it has all of another set.</summary>
    /// <param name="other">The other.</param>
    public bool HasAll(AdminCommandSet other) => (Bits & other.Bits) == other.Bits;

    /// <summary>Writes the list with one word.</summary>
    /// <param name="destination">Where to; at least <see cref="Size"/> bytes.</param>
    public void Write(Span<byte> destination) => BinaryPrimitives.WriteUInt64LittleEndian(destination, Bits);
}
