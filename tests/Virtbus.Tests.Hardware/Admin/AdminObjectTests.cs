using System.Buffers.Binary;
using Virtbus.Virtio.Admin;
using static Virtbus.Virtio.Admin.AdminOpcode;
using static Virtbus.Virtio.Admin.AdminQualifier;
using static Virtbus.Virtio.Admin.AdminStatus;

namespace Virtbus.Tests.Hardware.Admin;

/// <summary>Capabilities and resource objects (VIRTIO 1.4, 2.12.1.2 and 2.12.1.3).</summary>
public sealed class AdminObjectTests
{
    private const ushort Self = AdminRig.Self, Members = AdminRig.Members;
    private static readonly AdminAnswer Absent = new(VIRTIO_ADMIN_STATUS_ENXIO, VIRTIO_ADMIN_STATUS_Q_INVALID_FIELD);
    private static readonly AdminAnswer Exists = new(VIRTIO_ADMIN_STATUS_EEXIST, VIRTIO_ADMIN_STATUS_Q_INVALID_COMMAND);
    private static readonly AdminAnswer Full = new(VIRTIO_ADMIN_STATUS_ENOSPC, VIRTIO_ADMIN_STATUS_Q_NORESOURCE);
    private static readonly AdminAnswer Busy = new(VIRTIO_ADMIN_STATUS_EBUSY, VIRTIO_ADMIN_STATUS_Q_INVALID_COMMAND);

    // 2.12.1.2: the one capability that there is, and its limits.
    [Fact]
    public void Capability_for_parts_is_listed_read_and_set()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        Assert.Equal([1, 0, 0, 0, 0, 0, 0, 0], rig.Ok(VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY, Self, 0, [], 64));
        Assert.Equal([128, 128], rig.Ok(VIRTIO_ADMIN_CMD_DEVICE_CAP_GET, Self, 0, new byte[8], 64));
        rig.Ok(VIRTIO_ADMIN_CMD_DRIVER_CAP_SET, Self, 0, [0, 0, 0, 0, 0, 0, 0, 0, 128, 128]);
        // A driver may set less, and any part of it.
        rig.Ok(VIRTIO_ADMIN_CMD_DRIVER_CAP_SET, Self, 0, [0, 0, 0, 0, 0, 0, 0, 0, 3]);
        rig.Refused(Absent, VIRTIO_ADMIN_CMD_DEVICE_CAP_GET, Self, 0, [1, 0, 0, 0, 0, 0, 0, 0], 8);
        rig.Refused(Absent, VIRTIO_ADMIN_CMD_DRIVER_CAP_SET, Self, 0, [0, 8, 0, 0, 0, 0, 0, 0, 1, 1]);
        rig.Refused(AdminAnswer.InvalidField, VIRTIO_ADMIN_CMD_DRIVER_CAP_SET, Self, 0, [0, 0, 0, 0, 0, 0, 0, 0, 129, 1]);
        rig.Refused(AdminAnswer.InvalidField, VIRTIO_ADMIN_CMD_DRIVER_CAP_SET, Self, 0, [0, 0, 0, 0, 0, 0, 0, 0, 1, 129]);
    }

    // 2.12.1.2: without the driver's capability its limits are 0; a reset takes them, and all objects, back.
    [Fact]
    public void Limits_and_objects_go_with_a_reset()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        Refused(rig, AdminAnswer.InvalidField, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE, 1, 0);
        Limit(rig, 2, 2);
        Create(rig, 1, 0);
        rig.Start();
        rig.UseAll();
        Refused(rig, AdminAnswer.InvalidField, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE, 1, 0);
        Limit(rig, 2, 2);
        Refused(rig, Absent, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY, 1, 0);
        Create(rig, 1, 0);
    }

    // 2.12.1.3: any number below the limit, once; as many of each kind as the driver said.
    [Fact]
    public void Objects_are_as_many_as_the_driver_said()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        Limit(rig, 2, 1);
        Refused(rig, AdminAnswer.InvalidField, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE, 1, 3);
        Create(rig, 1, 2);
        Refused(rig, Exists, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE, 1, 2);
        // One space of numbers for all functions.
        Refused(rig, Exists, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE, 2, 2, ResourceObject.PartsSet);
        Create(rig, 2, 0);
        Refused(rig, Full, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE, 1, 1);
        Create(rig, 1, 1, ResourceObject.PartsSet);
        rig.Ok(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY, Members, 1, Header(2));
        Create(rig, 1, 2);
    }

    [Fact]
    public void Object_is_read_and_changed_as_it_was_made()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        Limit(rig, 2, 1);
        Create(rig, 1, 0);
        Create(rig, 1, 1, ResourceObject.PartsSet);
        Assert.Equal([0, 0, 0, 0, 0, 0, 0, 0], rig.Ok(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_QUERY, Members, 1, Header(0), 64));
        Assert.Equal([1, 0, 0, 0, 0, 0, 0, 0], rig.Ok(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_QUERY, Members, 1, Header(1), 64));
        // What there is no room for, and what there is not, changes nothing.
        Refused(rig, Full, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_MODIFY, 1, 0, ResourceObject.PartsSet);
        Refused(rig, AdminAnswer.InvalidField, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_MODIFY, 1, 0, 2);
        Assert.Equal([0], rig.Ok(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_QUERY, Members, 1, Header(0), 1));
        rig.Ok(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_MODIFY, Members, 1, Data(1, ResourceObject.PartsSet));
        rig.Ok(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_MODIFY, Members, 1, Data(1, ResourceObject.PartsGet));
        Assert.Equal([0], rig.Ok(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_QUERY, Members, 1, Header(1), 1));
    }

    [Theory]
    [InlineData(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_QUERY)]
    [InlineData(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_MODIFY)]
    [InlineData(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY)]
    public void Object_that_is_not_there_is_named(int opcode)
    {
        using var rig = new AdminRig();
        rig.UseAll();
        Limit(rig, 2, 1);
        Create(rig, 1, 0);
        Refused(rig, Absent, (ushort)opcode, 1, 1);
        Refused(rig, Absent, (ushort)opcode, 1, uint.MaxValue);
        // It is of another function.
        Refused(rig, Absent, (ushort)opcode, 2, 0);
        rig.Refused(AdminAnswer.InvalidField, (ushort)opcode, Members, 1, [1, .. Data(0, 0)[1..]]);
        rig.Ok(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_QUERY, Members, 1, Header(0), 8);
    }

    [Fact]
    public void Object_of_a_type_or_kind_that_there_is_not_is_not_created()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        Limit(rig, 2, 1);
        Refused(rig, AdminAnswer.InvalidField, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE, 1, 0, 2);
        rig.Refused(AdminAnswer.InvalidField, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE, Members, 1, [0, 2, .. Data(0, 0)[2..]]);
        // Members alone have them.
        rig.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE, Self, 0, Data(0, 0));
        Refused(rig, Absent, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY, 1, 0);
    }

    // 2.12.1.2: a capability that objects need is not taken back.
    [Fact]
    public void Capability_is_busy_while_objects_need_it()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        Limit(rig, 2, 2);
        Create(rig, 1, 3);
        Create(rig, 1, 0, ResourceObject.PartsSet);
        foreach (var limits in (byte[][])[[0, 4], [4, 0], [1, 1], [0, 0]])
            rig.Refused(Busy, VIRTIO_ADMIN_CMD_DRIVER_CAP_SET, Self, 0, [0, 0, 0, 0, 0, 0, 0, 0, .. limits]);
        Limit(rig, 3, 1);
        rig.Ok(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY, Members, 1, Header(3));
        rig.Refused(Busy, VIRTIO_ADMIN_CMD_DRIVER_CAP_SET, Self, 0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        rig.Ok(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY, Members, 1, Header(0));
        Limit(rig, 0, 0);
    }

    [Fact]
    public void Objects_of_a_function_go_with_it()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        Limit(rig, 1, 0);
        Create(rig, 1, 0);
        rig.Enable(0);
        rig.Enable(2);
        Refused(rig, Absent, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_QUERY, 1, 0);
        Create(rig, 2, 0);
        rig.Enable(0);
        Limit(rig, 0, 0);
    }

    // Linux uses objects without QUERY and MODIFY.
    [Fact]
    public void List_of_a_driver_that_uses_parts_has_what_they_need()
    {
        using var rig = new AdminRig();
        rig.Ok(VIRTIO_ADMIN_CMD_LIST_USE, Members, 0, [0xFF, 0xE7, 3, 0, 0, 0, 0, 0]);
        Limit(rig, 1, 1);
        Create(rig, 1, 0);
        rig.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_QUERY, Members, 1, Header(0), 8);
        foreach (var list in (byte[][])[[0x03, 0x44], [0x03, 0xA0], [0x03, 0x04, 1], [0x03, 0x40], [0x03, 0x60]])
            rig.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_FIELD, VIRTIO_ADMIN_CMD_LIST_USE, Members, 0, list);
        rig.Ok(VIRTIO_ADMIN_CMD_LIST_USE, Members, 0, [0x03, 0, 2]);
    }

    internal static void Limit(AdminRig rig, byte get, byte set) => rig.Ok(VIRTIO_ADMIN_CMD_DRIVER_CAP_SET, Self, 0, [0, 0, 0, 0, 0, 0, 0, 0, get, set]);

    internal static void Create(AdminRig rig, ulong member, uint id, byte kind = ResourceObject.PartsGet) => rig.Ok(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE, Members, member, Data(id, kind));

    internal static byte[] Header(uint id)
    {
        var bytes = new byte[ResourceObject.Size];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(4), id);
        return bytes;
    }

    private static byte[] Data(uint id, byte kind) => [.. Header(id), 0, 0, 0, 0, 0, 0, 0, 0, kind, 0, 0, 0, 0, 0, 0, 0];

    private static void Refused(AdminRig rig, AdminAnswer expected, ushort opcode, ulong member, uint id, byte kind = ResourceObject.PartsGet) =>
        rig.Refused(expected, opcode, Members, member, Data(id, kind), 64);
}
