using System.Buffers.Binary;
using static Virtbus.Virtio.Admin.AdminOpcode;
using static Virtbus.Virtio.Admin.AdminQualifier;
using static Virtbus.Virtio.Admin.AdminStatus;

namespace Virtbus.Virtio.Admin;

// Capabilities and resource objects (VIRTIO 1.4, 2.12.1.2 and 2.12.1.3).
internal sealed partial class AdminCommands
{
    private const byte MostObjects = 128;

    private static readonly DevicePartsCapability Limits = new(MostObjects, MostObjects);

    // By their numbers, of all members together.
    private readonly Dictionary<uint, PartsObject> _objects = [];
    private DevicePartsCapability _limits;

    private void ForgetObjects()
    {
        _objects.Clear();
        _limits = default;
    }

    // Those of a function that is gone went with it. Those that came with a state find theirs when it is there.
    private void ForgetGone()
    {
        foreach (var (id, one) in _objects)
        {
            var member = members.Find(one.Index);
            if (one.Member is null && member is not null)
                _objects[id] = one with { Member = member };
            else if (!ReferenceEquals(member, one.Member))
                _objects.Remove(id);
        }
    }

    private AdminAnswer DoCapability(ushort opcode, ReadOnlySpan<byte> data, Span<byte> result, out int length)
    {
        length = 0;
        if (opcode == VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY)
        {
            length = Put(AdminCommandSet.Of(AdminCapability.VIRTIO_DEV_PARTS_CAP), result);
            return AdminAnswer.Ok;
        }

        Span<byte> id = stackalloc byte[sizeof(ushort)];
        id.Clear();
        data[..Math.Min(data.Length, id.Length)].CopyTo(id);
        if (BinaryPrimitives.ReadUInt16LittleEndian(id) != AdminCapability.VIRTIO_DEV_PARTS_CAP)
            return new AdminAnswer(VIRTIO_ADMIN_STATUS_ENXIO, VIRTIO_ADMIN_STATUS_Q_INVALID_FIELD);
        if (opcode == VIRTIO_ADMIN_CMD_DEVICE_CAP_GET)
        {
            Span<byte> whole = stackalloc byte[DevicePartsCapability.Size];
            Limits.Write(whole);
            length = Put(whole, result);
            return AdminAnswer.Ok;
        }

        var wanted = DevicePartsCapability.Read(Behind(data, AdminCapability.HeaderSize));
        if (wanted.GetLimit > Limits.GetLimit || wanted.SetLimit > Limits.SetLimit)
            return AdminAnswer.InvalidField;
        // What is there has to have room still.
        ForgetGone();
        if (Count(ResourceObject.PartsGet) > wanted.GetLimit || Count(ResourceObject.PartsSet) > wanted.SetLimit || _objects.Keys.Any(one => one >= Ids(wanted)))
            return new AdminAnswer(VIRTIO_ADMIN_STATUS_EBUSY, VIRTIO_ADMIN_STATUS_Q_INVALID_COMMAND);
        _limits = wanted;
        return AdminAnswer.Ok;
    }

    private AdminAnswer DoObject(ushort opcode, ulong index, IAdminMember member, ReadOnlySpan<byte> data, Span<byte> result, out int length)
    {
        length = 0;
        var header = ResourceObject.Read(data);
        var kind = First(Behind(data, ResourceObject.Size + ResourceObject.FlagsSize));
        ForgetGone();
        if (header.Type != ResourceObject.VIRTIO_RESOURCE_OBJ_DEV_PARTS)
            return AdminAnswer.InvalidField;
        if (opcode is VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE or VIRTIO_ADMIN_CMD_RESOURCE_OBJ_MODIFY && kind is not (ResourceObject.PartsGet or ResourceObject.PartsSet))
            return AdminAnswer.InvalidField;
        if (opcode == VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE)
        {
            if (header.Id >= Ids(_limits))
                return AdminAnswer.InvalidField;
            if (_objects.ContainsKey(header.Id))
                return new AdminAnswer(VIRTIO_ADMIN_STATUS_EEXIST, VIRTIO_ADMIN_STATUS_Q_INVALID_COMMAND);
            if (!HasRoom(kind))
                return new AdminAnswer(VIRTIO_ADMIN_STATUS_ENOSPC, VIRTIO_ADMIN_STATUS_Q_NORESOURCE);
            _objects.Add(header.Id, new PartsObject(kind, index, member));
            return AdminAnswer.Ok;
        }

        if (!TryFind(header.Id, member, out var found))
            return NoObject;
        switch (opcode)
        {
            case VIRTIO_ADMIN_CMD_RESOURCE_OBJ_QUERY:
                Span<byte> whole = stackalloc byte[ResourceObject.PartsSize];
                whole.Clear();
                whole[0] = found.Kind;
                length = Put(whole, result);
                break;
            case VIRTIO_ADMIN_CMD_RESOURCE_OBJ_MODIFY:
                if (found.Kind != kind && !HasRoom(kind))
                    return new AdminAnswer(VIRTIO_ADMIN_STATUS_ENOSPC, VIRTIO_ADMIN_STATUS_Q_NORESOURCE);
                _objects[header.Id] = found with { Kind = kind };
                break;
            default:
                _objects.Remove(header.Id);
                break;
        }

        return AdminAnswer.Ok;
    }

    private static AdminAnswer NoObject => new(VIRTIO_ADMIN_STATUS_ENXIO, VIRTIO_ADMIN_STATUS_Q_INVALID_FIELD);

    // Numbers are of all objects, of whichever kind.
    private static int Ids(DevicePartsCapability limits) => limits.GetLimit + limits.SetLimit;

    private bool HasRoom(byte kind) => Count(kind) < (kind == ResourceObject.PartsGet ? _limits.GetLimit : _limits.SetLimit);

    private int Count(byte kind) => _objects.Values.Count(one => one.Kind == kind);

    private bool TryFind(uint id, IAdminMember member, out PartsObject found) => _objects.TryGetValue(id, out found) && ReferenceEquals(found.Member, member);

    private readonly record struct PartsObject(byte Kind, ulong Index, IAdminMember? Member);
}
