using Virtbus.Models.VirtioRng;
using Virtbus.Pci;
using Virtbus.Tests.Hardware.Virtio;
using Virtbus.Virtio;
using Virtbus.Virtio.Admin;
using static Virtbus.Tests.Hardware.Admin.AdminObjectTests;
using static Virtbus.Virtio.Admin.AdminOpcode;
using static Virtbus.Virtio.Admin.AdminStatus;
using static Virtbus.Virtio.VirtioLegacyConfig;

namespace Virtbus.Tests.Hardware.Admin;

/// <summary>What a device must do beside the single commands (VIRTIO 1.4, 2.12.1 and 2.12.1.4): lists that never shrink, functions that stand still or are being reset.</summary>
public sealed class AdminStandardTests
{
    private const ushort Self = AdminRig.Self, Members = AdminRig.Members;

    // 2.12.1: what was listed once is listed from then on, whatever the driver uses of it; a reset takes nothing from it, and the list of before is taken again.
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void List_of_the_device_never_shrinks(bool isStrict)
    {
        using var rig = new AdminRig(isStrict: isStrict);
        var (self, members) = (List(rig, Self), List(rig, Members));
        rig.Ok(VIRTIO_ADMIN_CMD_LIST_USE, Members, 0, members);
        rig.Ok(VIRTIO_ADMIN_CMD_LIST_USE, Members, 0, [3]);
        Assert.Equal((Hex(self), Hex(members)), (Hex(List(rig, Self)), Hex(List(rig, Members))));
        rig.Enable(0);
        if (!isStrict)
            Assert.Equal(members, List(rig, Members));
        rig.Enable(1);
        Assert.Equal(members, List(rig, Members));
        rig.Start();
        Assert.Equal((Hex(self), Hex(members)), (Hex(List(rig, Self)), Hex(List(rig, Members))));
        rig.Ok(VIRTIO_ADMIN_CMD_LIST_USE, Self, 0, self);
        rig.Ok(VIRTIO_ADMIN_CMD_LIST_USE, Members, 0, members);
    }

    // 2.12.1.4: all commands of parts, with the objects that they need, or none.
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Commands_for_parts_are_there_together(bool isStrict)
    {
        using var rig = new AdminRig(isStrict: isStrict);
        Assert.True(AdminCommandSet.TryRead(List(rig, Members), out var members));
        Assert.Equal(AdminCommandSet.DeviceParts, members & AdminCommandSet.DeviceParts);
        Assert.True(AdminCommandSet.TryRead(List(rig, Self), out var self));
        Assert.Equal(default, self & (AdminCommandSet.DeviceParts | AdminCommandSet.Legacy));
    }

    // 2.12.1.4: what meets a reset that waits for a peer is to be tried again behind it, and does nothing before.
    [Fact]
    public void Function_that_is_being_reset_takes_no_mode_and_no_parts()
    {
        using var rig = new AdminRig(make: static index => new VirtioRngDevice($"r{index}"));
        rig.UseAll();
        Limit(rig, 4, 4);
        Create(rig, 1, 0);
        Create(rig, 1, 1, ResourceObject.PartsSet);
        var vf = rig.Vf(0);
        var held = vf.StartHeld();
        try
        {
            vf.Ask();
            Deadline.Until(() => held.Waiting > 0, "a message");
            vf.Registers.Write(VirtioCommonConfig.device_status, [0]);
            rig.Refused(AdminAnswer.TryAgain, VIRTIO_ADMIN_CMD_DEV_MODE_SET, Members, 1, [1]);
            rig.Refused(AdminAnswer.TryAgain, VIRTIO_ADMIN_CMD_DEV_MODE_SET, Members, 1, [0]);
            rig.Refused(AdminAnswer.TryAgain, VIRTIO_ADMIN_CMD_DEV_PARTS_SET, Members, 1, Header(1));
            rig.Refused(AdminAnswer.TryAgain, VIRTIO_ADMIN_CMD_DEV_PARTS_GET, Members, 1, [.. Header(0), 1], 0x4000);
        }
        finally
        {
            held.Release();
        }

        Deadline.Until(() => vf.Driver.Status == 0, "the end of the reset");
        // It was not stopped, and is as after power-on.
        rig.Refused(new AdminAnswer(VIRTIO_ADMIN_STATUS_EBUSY, AdminQualifier.VIRTIO_ADMIN_STATUS_Q_INVALID_COMMAND), VIRTIO_ADMIN_CMD_DEV_PARTS_SET, Members, 1, Header(1));
        rig.Ok(VIRTIO_ADMIN_CMD_DEV_MODE_SET, Members, 1, [1]);
        rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_SET, Members, 1, Header(1));
    }

    // 2.12.1.4: what PCI itself defines is the same in either mode: config space, the table of vectors, registers, a reset.
    [Fact]
    public void Stopped_function_answers_on_its_bus_as_ever()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        Limit(rig, 1, 1);
        Create(rig, 1, 0, ResourceObject.PartsSet);
        var vf = rig.Vf(0);
        vf.Start();
        var config = Config(vf.Function);
        rig.Ok(VIRTIO_ADMIN_CMD_DEV_MODE_SET, Members, 1, [1]);
        Assert.Equal(config, Config(vf.Function));
        vf.EnableMsix();
        var at = vf.Function.ConfigLayout.FindCapability(PciCapabilityId.PCI_CAP_ID_MSIX) + PciMsix.PCI_MSIX_FLAGS + 1;
        Assert.Equal(0x80, Config(vf.Function)[at] & 0x80);
        Span<byte> entry = stackalloc byte[4];
        vf.Function.ReadBar(1, (2 * 16) + 8, entry);
        Assert.Equal([0xA2, 0, 0, 0], entry.ToArray());
        Assert.Equal(2, vf.Driver.QueueCount);
        vf.Driver.Select(1);
        Assert.Equal(1024, vf.Driver.QueueSize);
        Assert.Empty(vf.Slot.Messages);
        vf.Function.Reset();
        Assert.Equal(0, vf.Driver.Status);
        Assert.Equal(0, Config(vf.Function)[at] & 0x80);
    }

    // 2.12.1.4: parts are those of the state that is set; nothing of a driver that had the function before is left beside them.
    [Fact]
    public void State_of_a_modern_driver_leaves_nothing_of_a_legacy_one()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        Limit(rig, 4, 4);
        Create(rig, 1, 0);
        Create(rig, 2, 1, ResourceObject.PartsSet);
        rig.Vf(0).Start();
        rig.Ok(VIRTIO_ADMIN_CMD_DEV_MODE_SET, Members, 1, [1]);
        var state = rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_GET, Members, 1, [.. Header(0), 1], 0x4000);
        Write(rig, VIRTIO_PCI_STATUS, [VirtioStatus.ACKNOWLEDGE]);
        Write(rig, VIRTIO_PCI_GUEST_FEATURES, [7, 0, 0, 0]);
        Write(rig, VIRTIO_PCI_QUEUE_PFN, [9, 0, 0, 0]);
        rig.Ok(VIRTIO_ADMIN_CMD_DEV_MODE_SET, Members, 2, [1]);
        rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_SET, Members, 2, [.. Header(1), .. state]);
        Assert.Equal([0], Read(rig, VIRTIO_PCI_STATUS, 1));
        Assert.Equal([0, 0, 0, 0], Read(rig, VIRTIO_PCI_GUEST_FEATURES, 4));
        Assert.Equal([0, 0, 0, 0], Read(rig, VIRTIO_PCI_QUEUE_PFN, 4));
        Assert.Equal(VirtioCard.Running, rig.Vf(1).Driver.Status);
    }

    // An interrupt of the driver before is none of the state's.
    [Fact]
    public void State_without_an_interrupt_takes_the_one_that_is_pending()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        Limit(rig, 4, 4);
        Create(rig, 2, 0);
        Create(rig, 2, 1, ResourceObject.PartsSet);
        var vf = rig.Vf(1);
        vf.Start();
        rig.Ok(VIRTIO_ADMIN_CMD_DEV_MODE_SET, Members, 2, [1]);
        var state = rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_GET, Members, 2, [.. Header(0), 1], 0x4000);
        vf.Ring!.RequestCalls(true);
        for (var round = 0; round < 2; round++)
        {
            rig.Ok(VIRTIO_ADMIN_CMD_DEV_MODE_SET, Members, 2, [0]);
            vf.OfferSector(1);
            Assert.Equal(AdminVf.Sector(1), vf.AwaitSector());
            // Stopped, all that it had to tell is told.
            rig.Ok(VIRTIO_ADMIN_CMD_DEV_MODE_SET, Members, 2, [1]);
            if (round > 0)
                rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_SET, Members, 2, [.. Header(1), .. state]);
            Assert.Equal([round == 0 ? (byte)1 : (byte)0], Read(rig, VIRTIO_PCI_ISR, 1));
        }
    }

    // 2.12.1.4: reserved bytes of an answer are 0, whatever the one before had there.
    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    public void Answer_has_nothing_of_the_one_before(byte type)
    {
        using var rig = new AdminRig();
        rig.UseAll();
        Limit(rig, 1, 0);
        Create(rig, 1, 0);
        var part = new byte[DevicePart.Size];
        new DevicePart(DevicePart.VIRTIO_DEV_PART_VQ_CFG, 0, 1, 0).Write(part);
        var before = rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_GET, Members, 1, [.. Header(0), 0, 0, 0, 0, 0, 0, 0, 0, .. part], 0x1000);
        Assert.Equal(1, before[4]);
        Assert.Equal([0, 0, 0, 0], rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET, Members, 1, [.. Header(0), type, 0, 0, 0, 0, 0, 0, 0], 0x1000)[4..8]);
    }

    // 2.12.1.3: a number that is in use is said to be, and not that there is no room.
    [Fact]
    public void Number_in_use_is_named_where_there_is_no_room_either()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        Limit(rig, 1, 1);
        Create(rig, 1, 0);
        rig.Refused(new AdminAnswer(VIRTIO_ADMIN_STATUS_EEXIST, AdminQualifier.VIRTIO_ADMIN_STATUS_Q_INVALID_COMMAND), VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE, Members, 1, Header(0));
    }

    // 2.14: a queue that ran and is not enabled in the part is not.
    [Fact]
    public void Queue_that_is_set_as_not_enabled_does_not_go_on()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        Limit(rig, 1, 1);
        Create(rig, 2, 0);
        Create(rig, 2, 1, ResourceObject.PartsSet);
        var vf = rig.Vf(1);
        vf.Start();
        rig.Ok(VIRTIO_ADMIN_CMD_DEV_MODE_SET, Members, 2, [1]);
        var name = new byte[DevicePart.Size];
        new DevicePart(DevicePart.VIRTIO_DEV_PART_VQ_CFG, 0, 0, 0).Write(name);
        var queue = rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_GET, Members, 2, [.. Header(0), 0, 0, 0, 0, 0, 0, 0, 0, .. name], 0x1000);
        const int Enabled = DevicePart.Size + 4;
        Assert.Equal(1, queue[Enabled]);
        queue[Enabled] = 0;
        rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_SET, Members, 2, [.. Header(1), .. queue]);
        Assert.Equal(queue, rig.Ok(VIRTIO_ADMIN_CMD_DEV_PARTS_GET, Members, 2, [.. Header(0), 0, 0, 0, 0, 0, 0, 0, 0, .. name], 0x1000));
        vf.Driver.Select(0);
        Assert.False(vf.Driver.IsEnabled);
    }

    private static byte[] Config(PciFunction function)
    {
        var bytes = new byte[256];
        function.ReadConfig(0, bytes);
        return bytes;
    }

    private static byte[] List(AdminRig rig, ushort group) => rig.Ok(VIRTIO_ADMIN_CMD_LIST_QUERY, group, 0, [], 8);

    private static string Hex(byte[] bytes) => Convert.ToHexString(bytes);

    private static byte[] Read(AdminRig rig, int offset, int length) => rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ, Members, 2, [(byte)offset], length);

    private static void Write(AdminRig rig, int offset, byte[] value) =>
        rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE, Members, 2, [(byte)offset, 0, 0, 0, 0, 0, 0, 0, .. value]);
}
