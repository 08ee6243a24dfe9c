using Virtbus.Hardware.VirtioPci;
using Virtbus.Memory;
using Virtbus.Models.VirtioRng;
using Virtbus.Pci;
using Virtbus.Virtio;
using Virtbus.Virtio.Admin;
using static Virtbus.Virtio.Admin.AdminOpcode;
using static Virtbus.Virtio.Admin.AdminQualifier;

namespace Virtbus.Tests.Hardware.Admin;

/// <summary>The administration queue among the others, which commands it takes, and in what order it judges them (VIRTIO 1.4, 2.12 and 2.13).</summary>
public sealed class AdminQueueTests
{
    private const ushort Self = AdminRig.Self, Members = AdminRig.Members;
    private static readonly byte[] Lists = [3, 0, 0, 0, 0, 0, 0, 0];

    [Fact]
    public void Queue_is_behind_the_others_and_not_among_them()
    {
        using var rig = new AdminRig(functions: 0);
        Assert.Equal(2, rig.Driver.QueueCount);
        Assert.Equal((2, 1), (rig.Registers.ReadUInt16(VirtioCommonConfig.admin_queue_index), rig.Registers.ReadUInt16(VirtioCommonConfig.admin_queue_num)));
        rig.Driver.Select(2);
        Assert.Equal((64, 2), (rig.Driver.QueueSize, rig.Driver.NotifyOffset));
        rig.Driver.Select(3);
        Assert.Equal(0, rig.Driver.QueueSize);
        // One vector for each queue and one for the configuration; the place of its notification is within the capability's.
        Assert.True(rig.Driver.TrySetConfigVector(3));
        Assert.Equal(12u, rig.Registers.Notifications.Length);
        Assert.Equal(3, rig.Physical.Doorbells.Count);
    }

    [Fact]
    public void Who_does_not_take_the_feature_finds_no_such_queue()
    {
        using var rig = new AdminRig(functions: 0, isStarted: false);
        Assert.True(rig.Driver.DeviceFeatures.Has(VirtioFeatures.VIRTIO_F_ADMIN_VQ));
        rig.Start(takesQueue: false);
        Assert.Equal((0, 0), (rig.Registers.ReadUInt16(VirtioCommonConfig.admin_queue_index), rig.Registers.ReadUInt16(VirtioCommonConfig.admin_queue_num)));
        rig.Driver.Select(2);
        Assert.Equal(0, rig.Driver.QueueSize);
        Assert.False(rig.Driver.TryEnable());
    }

    [Fact]
    public void Only_a_function_with_virtual_ones_offers_it_and_not_when_it_is_told_not_to()
    {
        foreach (var options in (VirtioFunctionOptions[])[new(), new() { VirtualFunctions = 2, HasAdminQueue = false }])
        {
            using var function = new VirtioFunction(new VirtioRngDevice("pf"), options);
            var driver = new VirtioRegisterTransport(new VirtioPciAccess(function));
            Assert.False(driver.DeviceFeatures.Has(VirtioFeatures.VIRTIO_F_ADMIN_VQ));
            Assert.Single(function.Doorbells);
            Assert.Equal(2, VectorsOf(function));
        }
    }

    [Fact]
    public void Queue_is_reset_alone_and_set_up_again()
    {
        using var rig = new AdminRig(functions: 0);
        rig.UseAll();
        rig.Driver.Select(rig.AdminIndex);
        Assert.True(rig.Driver.IsEnabled);
        rig.Registers.WriteUInt16(VirtioCommonConfig.queue_reset, 1);
        Assert.False(rig.Driver.IsEnabled);
        rig.SetUpQueue();
        // What was set by commands is the device's, not the queue's.
        rig.Ok(VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY, Self, 0, [], 8);
    }

    [Fact]
    public void Used_buffers_are_told_by_the_vector_of_the_queue()
    {
        using var rig = new AdminRig(functions: 0, isStarted: false);
        var capability = rig.Physical.ConfigLayout.FindCapability(PciCapabilityId.PCI_CAP_ID_MSIX);
        rig.Physical.WriteBar(1, 3 * 16, [0, 0, 0xE0, 0xFE, 0, 0, 0, 0, 0xA3, 0, 0, 0, 0, 0, 0, 0]);
        rig.Physical.WriteConfig(capability + PciMsix.PCI_MSIX_FLAGS, [0, 0x80]);
        rig.Start();
        rig.Driver.Select(2);
        Assert.True(rig.Driver.TrySetQueueVector(3));
        rig.Ring.RequestCalls(true);
        rig.Ok(VIRTIO_ADMIN_CMD_LIST_QUERY, Self, 0, [], 8);
        Deadline.Until(() => rig.Slot.Messages.Contains((0xFEE00000, 0xA3u)), "the message");
    }

    // 2.12.1: the lists of the groups are apart from each other.
    [Fact]
    public void Lists_say_what_there_is_for_each_group()
    {
        using var strict = new AdminRig(isStrict: true);
        Assert.Equal((AdminCommandSet.Lists | AdminCommandSet.Capabilities).Bits, List(strict, Self));
        Assert.Equal((AdminCommandSet.Lists | AdminCommandSet.Legacy).Bits & 0x7F, List(strict, Members) & 0x7F);
        Assert.Equal(default, AdminCommandSet.Capabilities & new AdminCommandSet(List(strict, Members)));
        using var rig = new AdminRig();
        Assert.Equal(List(strict, Self), List(rig, Self));
        Assert.Equal(AdminCommandSet.Capabilities, AdminCommandSet.Capabilities & new AdminCommandSet(List(rig, Members)));
    }

    // 2.12.1.1: members of types that have no legacy form have no such commands.
    [Fact]
    public void Members_of_new_types_have_no_legacy_commands()
    {
        using var rig = new AdminRig(make: static _ => new NewDevice());
        Assert.Equal(default, AdminCommandSet.Legacy & new AdminCommandSet(List(rig, Members)));
        rig.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_FIELD, VIRTIO_ADMIN_CMD_LIST_USE, Members, 0, [0x7F, 0, 0, 0, 0, 0, 0, 0]);
    }

    // 2.12.1: after a reset only the two commands about lists are legal, and then those that the driver listed.
    [Fact]
    public void Only_what_the_driver_listed_is_done()
    {
        using var rig = new AdminRig();
        rig.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE, VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO, Members, 1, [], 64);
        rig.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE, VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY, Self, 0, [], 8);
        rig.Ok(VIRTIO_ADMIN_CMD_LIST_USE, Members, 0, [0x7F, 0, 0, 0, 0, 0, 0, 0]);
        rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO, Members, 1, [], 64);
        rig.Ok(VIRTIO_ADMIN_CMD_LIST_USE, Members, 0, [0x3F, 0, 0, 0, 0, 0, 0, 0]);
        rig.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE, VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO, Members, 1, [], 64);
        rig.Start();
        rig.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE, VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ, Members, 1, [0], 4);
        // The driver may do without the lists from then on.
        rig.Ok(VIRTIO_ADMIN_CMD_LIST_USE, Members, 0, [0x7C, 0, 0, 0, 0, 0, 0, 0]);
        rig.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE, VIRTIO_ADMIN_CMD_LIST_QUERY, Members, 0, [], 8);
        rig.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE, VIRTIO_ADMIN_CMD_LIST_USE, Members, 0, Lists);
        rig.Ok(VIRTIO_ADMIN_CMD_LIST_QUERY, Self, 0, [], 8);
    }

    // 2.12.1: a list of a driver is part of the device's; 2.12.1.1 and 2.12.1.2: some go together. What is refused changes nothing.
    [Fact]
    public void List_that_makes_no_sense_is_refused_and_the_one_before_stays()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        foreach (var list in (byte[][])
            [
                [0x07, 0, 0, 0, 0, 0, 0, 0], [0x1F, 0, 0, 0, 0, 0, 0, 0], [0x43, 0, 0, 0, 0, 0, 0, 0], [0x83, 0, 0, 0, 0, 0, 0, 0], [0x03, 0, 4, 0, 0, 0, 0, 0],
                [0x03, 0, 0, 0, 0, 0, 0, 0x80], [0x03, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
            ])
        {
            rig.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_FIELD, VIRTIO_ADMIN_CMD_LIST_USE, Members, 0, list);
            rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO, Members, 1, [], 64);
        }

        rig.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_FIELD, VIRTIO_ADMIN_CMD_LIST_USE, Self, 0, [0x7F, 0, 0, 0, 0, 0, 0, 0]);
        rig.Ok(VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY, Self, 0, [], 8);
        // Longer by zeros, and shorter, are the same list (2.13).
        rig.Ok(VIRTIO_ADMIN_CMD_LIST_USE, Members, 0, [0x7F, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        rig.Ok(VIRTIO_ADMIN_CMD_LIST_USE, Members, 0, [0x7F]);
        rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO, Members, 1, [], 64);
    }

    // 2.12.1: group, then opcode, then member. Each row has one wrong field and more behind it that are not looked at.
    [Theory]
    [InlineData(2, 99, 99, VIRTIO_ADMIN_STATUS_Q_INVALID_GROUP)]
    [InlineData(0xFFFF, VIRTIO_ADMIN_CMD_LIST_QUERY, 0, VIRTIO_ADMIN_STATUS_Q_INVALID_GROUP)]
    [InlineData(1, 0x12, 99, VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE)]
    [InlineData(1, 0x40, 1, VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE)]
    [InlineData(1, 0x8000, 0, VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE)]
    [InlineData(0, VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ, 1, VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE)]
    [InlineData(0, VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY, 1, VIRTIO_ADMIN_STATUS_Q_INVALID_MEMBER)]
    [InlineData(1, VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ, 0, VIRTIO_ADMIN_STATUS_Q_INVALID_MEMBER)]
    [InlineData(1, VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE, 3, VIRTIO_ADMIN_STATUS_Q_INVALID_MEMBER)]
    [InlineData(1, VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ, 0x1_0000_0001, VIRTIO_ADMIN_STATUS_Q_INVALID_MEMBER)]
    [InlineData(1, VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_WRITE, -1, VIRTIO_ADMIN_STATUS_Q_INVALID_MEMBER)]
    [InlineData(1, VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO, 3, VIRTIO_ADMIN_STATUS_Q_INVALID_MEMBER)]
    public void First_wrong_field_is_named(int group, int opcode, long member, int qualifier)
    {
        using var rig = new AdminRig();
        rig.UseAll();
        rig.Refused((ushort)qualifier, (ushort)opcode, (ushort)group, (ulong)member, [0xFF], 64);
        Assert.Equal(0, rig.Driver.Status & VirtioStatus.DEVICE_NEEDS_RESET);
        rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO, Members, 2, [], 64);
    }

    // 2.12.1: without VF Enable there is no such group; by default the lists are answered all the same, and what Linux asks with them.
    [Fact]
    public void Group_is_there_while_VF_Enable_is_set()
    {
        using var strict = new AdminRig(functions: 0, isStrict: true);
        strict.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_GROUP, VIRTIO_ADMIN_CMD_LIST_QUERY, Members, 0, [], 8);
        strict.Enable(1);
        strict.UseAll();
        strict.Ok(VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO, Members, 1, [], 64);
        strict.Enable(0);
        strict.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_GROUP, VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO, Members, 1, [], 64);
        strict.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_GROUP, VIRTIO_ADMIN_CMD_LIST_USE, Members, 0, Lists);

        using var rig = new AdminRig(functions: 0);
        rig.UseAll();
        rig.Ok(VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY, Members, 0, [], 8);
        rig.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_GROUP, VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO, Members, 1, [], 64);
        rig.Enable(1);
        rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO, Members, 1, [], 64);
        rig.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_MEMBER, VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO, Members, 2, [], 64);
    }

    // Linux lists what it uses for its virtual functions alone, and asks for capabilities of itself; of its versions 6.13 and 6.14 the group is the other one.
    [Fact]
    public void Capabilities_are_answered_as_Linux_asks_unless_the_standard_is_kept_to_the_letter()
    {
        using var rig = new AdminRig(functions: 0);
        rig.Ok(VIRTIO_ADMIN_CMD_LIST_USE, Members, 0, rig.Ok(VIRTIO_ADMIN_CMD_LIST_QUERY, Members, 0, [], 8));
        rig.Ok(VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY, Self, 0, [], 8);
        rig.Ok(VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY, Members, 0, [], 8);

        using var strict = new AdminRig(isStrict: true);
        strict.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_FIELD, VIRTIO_ADMIN_CMD_LIST_USE, Members, 0, [0x83, 3, 0, 0, 0, 0, 0, 0]);
        strict.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE, VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY, Self, 0, [], 8);
        strict.UseAll();
        strict.Ok(VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY, Self, 0, [], 8);
        strict.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE, VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY, Members, 0, [], 8);
    }

    // 2.13: what is missing of a command counts as 0, what has no room of an answer is left out, and the used length says what was written.
    [Fact]
    public void Buffers_may_be_shorter_or_longer()
    {
        using var rig = new AdminRig();
        Assert.Equal(16, rig.Raw([], 64).Length);
        Assert.Equal(16, rig.Raw([0, 0], 4096).Length);
        Assert.Equal([22, 0, 2], rig.Raw([9], 3));
        Assert.Equal([0, 0, 0, 0, 0, 0, 0, 0, 0x83], rig.Raw(new byte[24], 9));
        Assert.Empty(rig.Raw([0], 0));
        var command = new byte[0x4000];
        new AdminCommand(VIRTIO_ADMIN_CMD_LIST_QUERY, Self, 0).Write(command);
        Assert.Equal(16, rig.Raw(command, 0x4000).Length);
        rig.Ok(VIRTIO_ADMIN_CMD_LIST_QUERY, Self, 0, [], 8);
    }

    // 2.13: in the order in which they are queued.
    [Fact]
    public void Commands_are_done_in_their_order()
    {
        using var rig = new AdminRig();
        var use = new byte[32];
        new AdminCommand(VIRTIO_ADMIN_CMD_LIST_USE, Members, 0).Write(use);
        var info = new byte[24];
        new AdminCommand(VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO, Members, 1).Write(info);
        var memory = rig.Slot.Memory;
        for (var i = 0; i < 16; i++)
        {
            use[24] = i % 2 == 0 ? (byte)0x7F : (byte)0x03;
            memory.Write(AdminRig.CommandAt + ((ulong)i * 0x40), use);
            memory.Write(AdminRig.CommandAt + 0x20 + ((ulong)(i + 16) * 0x40), info);
            Add(rig, 0x40 * (ulong)i, 32, 0x40 * (ulong)i, 8);
            Add(rig, 0x20 + (0x40 * (ulong)(i + 16)), 24, 0x40 * (ulong)(i + 16), 64);
        }

        rig.Ring.Publish();
        rig.Registers.Notify(rig.AdminIndex);
        for (var i = 0; i < 32; i++)
            Assert.Equal(i % 4 == 1 ? 64u : 8u, rig.Await());
    }

    private static void Add(AdminRig rig, ulong command, uint length, ulong answer, uint room) => Assert.True(rig.Ring.Add(
    [
        new(new Iova(FunctionSlot.MemoryAddress + AdminRig.CommandAt + command), length, false),
        new(new Iova(FunctionSlot.MemoryAddress + AdminRig.AnswerAt + answer), room, true),
    ]) >= 0);

    private static ulong List(AdminRig rig, ushort group)
    {
        Assert.True(AdminCommandSet.TryRead(rig.Ok(VIRTIO_ADMIN_CMD_LIST_QUERY, group, 0, [], 64), out var set));
        return set.Bits;
    }

    private static int VectorsOf(VirtioFunction function)
    {
        Span<byte> flags = stackalloc byte[2];
        function.ReadConfig(function.ConfigLayout.FindCapability(PciCapabilityId.PCI_CAP_ID_MSIX) + PciMsix.PCI_MSIX_FLAGS, flags);
        return (flags[0] | ((flags[1] & 7) << 8)) + 1;
    }
}
