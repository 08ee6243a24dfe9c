using Virtbus.Platform;
using Virtbus.Virtio.Admin;
using static Virtbus.Tests.Hardware.Admin.AdminObjectTests;
using static Virtbus.Virtio.Admin.AdminOpcode;
using static Virtbus.Virtio.Admin.AdminQualifier;

namespace Virtbus.Tests.Hardware.Admin;

/// <summary>What the driver of an owner set by commands moves with the owner.</summary>
public sealed class AdminStateTests
{
    private const ushort Self = AdminRig.Self, Members = AdminRig.Members;

    [Fact]
    public void Lists_limits_and_objects_move()
    {
        using var from = new AdminRig();
        from.UseAll();
        from.Ok(VIRTIO_ADMIN_CMD_LIST_USE, Self, 0, [0x83, 3]);
        Limit(from, 2, 1);
        Create(from, 2, 1);
        Create(from, 1, 2, ResourceObject.PartsSet);
        var state = Save(from);
        using var to = new AdminRig();
        // What was there before is not beside it.
        to.UseAll();
        Limit(to, 9, 9);
        Create(to, 1, 8);
        Restore(to, state);
        Assert.Equal([0], to.Ok(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_QUERY, Members, 2, Header(1), 1));
        Assert.Equal([1], to.Ok(VIRTIO_ADMIN_CMD_RESOURCE_OBJ_QUERY, Members, 1, Header(2), 1));
        Create(to, 1, 0);
        to.Refused(AdminAnswer.InvalidField, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE, Members, 1, [.. Header(3), 0]);
        Assert.Equal(state, Save(from));
    }

    [Fact]
    public void Objects_that_moved_find_their_functions_when_those_are_there_and_go_with_them()
    {
        using var from = new AdminRig();
        from.UseAll();
        Limit(from, 2, 1);
        Create(from, 2, 1);
        var state = Save(from);
        using var to = new AdminRig(functions: 0);
        Restore(to, state);
        to.Ok(VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY, Self, 0, [], 8);
        to.Enable(1);
        to.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_MEMBER, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_QUERY, Members, 2, Header(1), 1);
    }

    [Fact]
    public void State_that_no_driver_can_have_set_is_refused()
    {
        using var from = new AdminRig();
        from.UseAll();
        Limit(from, 2, 1);
        Create(from, 2, 1);
        Create(from, 1, 2, ResourceObject.PartsSet);
        var good = Save(from);
        var at = Array.LastIndexOf(good, (byte)'n') - 11;
        while (!good.AsSpan(at).StartsWith("virtio-admin"u8))
            at--;
        at += 12;
        using var to = new AdminRig();
        // Lists: a command that there is not, half of a set. Limits: too high. Objects: above the limit, twice, of no kind, more of a kind than said.
        foreach (var (offset, value) in ((int, byte)[])
            [(2, 0x08), (0, 0x7F), (8, 0x07), (16, 129), (17, 200), (24, 7), (24, 2), (28, 2), (28, 1), (44, 5)])
        {
            var bad = (byte[])good.Clone();
            bad[at + offset] = value;
            Assert.NotEqual(good, bad);
            Assert.True(to.Physical.TryPause(out _));
            Assert.True(StateReader.TryRead(bad, bad.Length, out var reader, out _));
            Assert.False(to.Physical.TryRestore(reader, out var fault), $"{offset}");
            Assert.Equal(Errno.EINVAL, fault.Errno);
            to.Physical.Resume();
        }

        to.UseAll();
        to.Ok(VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO, Members, 1, [], 64);
    }

    [Fact]
    public void State_has_whole_objects_alone()
    {
        using var from = new AdminRig();
        from.UseAll();
        Limit(from, 2, 1);
        Create(from, 2, 1);
        var good = Save(from);
        using var to = new AdminRig();
        foreach (var rest in (ReadOnlySpan<int>)[-1, 1, 15])
        {
            Assert.True(StateReader.TryRead(good, good.Length, out var reader, out _));
            var writer = new StateWriter();
            foreach (var section in reader.TakeRest())
            {
                var content = section.Content.ToArray();
                if (section.Name == "virtio-admin")
                    Array.Resize(ref content, content.Length + rest);
                writer.Add(section.Name, section.Version, content, section.IsOptional);
            }

            var bad = writer.ToArray();
            Assert.True(StateReader.TryRead(bad, bad.Length, out reader, out _));
            Assert.True(to.Physical.TryPause(out _));
            Assert.False(to.Physical.TryRestore(reader, out var fault), $"{rest}");
            Assert.Equal(Errno.EINVAL, fault.Errno);
            to.Physical.Resume();
        }
    }

    // Else they would be those of the next functions of their numbers.
    [Fact]
    public void Objects_of_functions_that_are_gone_do_not_move()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        Limit(rig, 2, 1);
        rig.Enable(0);
        var before = Save(rig).Length;
        rig.Enable(2);
        Create(rig, 2, 1);
        Assert.Equal(before + 16, Save(rig).Length);
        rig.Enable(0);
        Assert.Equal(before, Save(rig).Length);
    }

    private static byte[] Save(AdminRig rig)
    {
        Assert.True(rig.Physical.TryPause(out _));
        var writer = new StateWriter();
        Assert.True(rig.Physical.TrySave(writer, out var fault), fault.Message);
        rig.Physical.Resume();
        return writer.ToArray();
    }

    private static void Restore(AdminRig rig, byte[] state)
    {
        Assert.True(rig.Physical.TryPause(out _));
        Assert.True(StateReader.TryRead(state, state.Length, out var reader, out _));
        Assert.True(rig.Physical.TryRestore(reader, out var fault), fault.Message);
        rig.Physical.Resume();
        rig.ResetQueue();
    }
}
