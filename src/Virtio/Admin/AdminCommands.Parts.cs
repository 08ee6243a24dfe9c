using System.Buffers;
using System.Buffers.Binary;
using static Virtbus.Virtio.Admin.AdminOpcode;

namespace Virtbus.Virtio.Admin;

// Parts of members' states (VIRTIO 1.4, 2.12.1.4).
internal sealed partial class AdminCommands
{
    // Types of METADATA_GET and of GET.
    private const byte Size = 0, Number = 1, List = 2;
    private const byte Selected = 0, All = 1;
    private const int TypeAt = ResourceObject.Size;
    private const int ListAt = ResourceObject.Size + 8;
    private const int CountSize = 8;
    private const byte Stopped = 1;

    private AdminAnswer DoParts(ushort opcode, IAdminMember member, ReadOnlySpan<byte> data, Span<byte> result, out int length)
    {
        length = 0;
        if (opcode == VIRTIO_ADMIN_CMD_DEV_MODE_SET)
            return (First(data) & ~Stopped) != 0 ? AdminAnswer.InvalidField : member.SetMode(First(data) == Stopped);
        ForgetGone();
        var header = ResourceObject.Read(data);
        if (header.Type != ResourceObject.VIRTIO_RESOURCE_OBJ_DEV_PARTS)
            return AdminAnswer.InvalidField;
        if (!TryFind(header.Id, member, out var found))
            return NoObject;
        if (found.Kind != (opcode == VIRTIO_ADMIN_CMD_DEV_PARTS_SET ? ResourceObject.PartsSet : ResourceObject.PartsGet))
            return AdminAnswer.InvalidField;
        if (opcode == VIRTIO_ADMIN_CMD_DEV_PARTS_SET)
            return member.SetParts(Behind(data, ResourceObject.Size));
        var type = First(Behind(data, TypeAt));
        if (type > (opcode == VIRTIO_ADMIN_CMD_DEV_PARTS_GET ? All : List))
            return AdminAnswer.InvalidField;
        var parts = new ArrayBufferWriter<byte>();
        if (member.GetParts(parts) is { IsOk: false } refused)
            return refused;
        return opcode == VIRTIO_ADMIN_CMD_DEV_PARTS_GET
            ? PutParts(parts.WrittenSpan, type == All, Behind(data, ListAt), result, out length)
            : Describe(parts.WrittenSpan, type, result, out length);
    }

    // In the order of the device's, whatever the driver's; what there is not is passed over.
    private static AdminAnswer PutParts(ReadOnlySpan<byte> parts, bool isAll, ReadOnlySpan<byte> wanted, Span<byte> result, out int length)
    {
        length = 0;
        while (DevicePart.TryTake(ref parts, out var part, out var value))
        {
            if (!isAll && !Has(wanted, part))
                continue;
            if (result.Length - length < DevicePart.Size + value.Length)
                return AdminAnswer.NoRoom;
            part.Write(result[length..]);
            value.CopyTo(result[(length + DevicePart.Size)..]);
            length += DevicePart.Size + value.Length;
        }

        return AdminAnswer.Ok;
    }

    private static bool Has(ReadOnlySpan<byte> wanted, in DevicePart part)
    {
        for (; wanted.Length >= DevicePart.Size; wanted = wanted[DevicePart.Size..])
        {
            var one = DevicePart.Read(wanted);
            if (one.Type == part.Type && one.Selector == part.Selector)
                return true;
        }

        return false;
    }

    private static AdminAnswer Describe(ReadOnlySpan<byte> parts, byte type, Span<byte> result, out int length)
    {
        var size = parts.Length;
        var count = 0;
        length = CountSize;
        if (result.Length < length)
            return AdminAnswer.NoRoom;
        while (DevicePart.TryTake(ref parts, out var part, out _))
        {
            count++;
            if (type != List)
                continue;
            if (result.Length - length < DevicePart.Size)
                return AdminAnswer.NoRoom;
            part.Write(result[length..]);
            length += DevicePart.Size;
        }

        result[..CountSize].Clear();
        BinaryPrimitives.WriteInt32LittleEndian(result, type == Size ? size : count);
        return AdminAnswer.Ok;
    }
}
