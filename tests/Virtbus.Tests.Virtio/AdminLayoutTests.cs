using Virtbus.Virtio;
using Virtbus.Virtio.Admin;

namespace Virtbus.Tests.Virtio;

/// <summary>Bytes of what administration commands carry (VIRTIO 1.4, 2.12.1 to 2.14), each field at its place, and back.</summary>
public sealed class AdminLayoutTests
{
    [Fact]
    public void Command_and_answer()
    {
        var bytes = Filled(24);
        new AdminCommand(0x0102, 0x0304, 0x05060708090A0B0C).Write(bytes);
        Assert.Equal("020104030000000000000000000000000C0B0A0908070605", Convert.ToHexString(bytes));
        Assert.Equal(new AdminCommand(0x0102, 0x0304, 0x05060708090A0B0C), AdminCommand.Read(bytes));
        Assert.Equal(new AdminCommand(0x0102, 4, 0), AdminCommand.Read(bytes.AsSpan(0, 3)));
        Assert.Equal(new AdminCommand(0x0102, 0x0304, 0x0C), AdminCommand.Read(bytes.AsSpan(0, 17)));
        bytes = Filled(8);
        new AdminAnswer(0x0102, 0x0304).Write(bytes);
        Assert.Equal("0201040300000000", Convert.ToHexString(bytes));
        Assert.Equal(new AdminAnswer(0x0102, 0x0304), AdminAnswer.Read(bytes));
        Assert.Equal(new AdminAnswer(2, 0), AdminAnswer.Read([2]));
        Assert.True(AdminAnswer.Ok.IsOk);
        Assert.Equal((new AdminAnswer(11, 7), new AdminAnswer(12, 6), new AdminAnswer(22, 3), new AdminAnswer(22, 5)), (AdminAnswer.TryAgain, AdminAnswer.NoRoom, AdminAnswer.InvalidField, AdminAnswer.Invalid(5)));
    }

    [Fact]
    public void Sets_of_commands()
    {
        Assert.Equal((0x3ul, 0x3Cul, 0x7Cul, 0x380ul, 0x3C00ul, 0x3FC00ul), (
            AdminCommandSet.Lists.Bits, AdminCommandSet.LegacyAccess.Bits, AdminCommandSet.Legacy.Bits, AdminCommandSet.Capabilities.Bits, AdminCommandSet.Objects.Bits,
            AdminCommandSet.DeviceParts.Bits));
        var bytes = Filled(8);
        new AdminCommandSet(0x0102030405060708).Write(bytes);
        Assert.Equal("0807060504030201", Convert.ToHexString(bytes));
        Assert.True(AdminCommandSet.TryRead([.. bytes, 0, 0, 0], out var set));
        Assert.Equal(0x0102030405060708ul, set.Bits);
        Assert.True(AdminCommandSet.TryRead([7], out set));
        Assert.Equal(7ul, set.Bits);
        Assert.False(AdminCommandSet.TryRead([.. bytes, 0, 1], out _));
        Assert.Equal((true, false, false, false), (set.Has(2), set.Has(3), set.Has(64), set.Has(66)));
        Assert.Equal((true, false), (set.HasAll(new AdminCommandSet(5)), set.HasAll(new AdminCommandSet(9))));
    }

    [Fact]
    public void Places_objects_and_parts()
    {
        var bytes = Filled(16);
        new LegacyNotifyInfo(2, 4, 0x0102030405060708).Write(bytes);
        Assert.Equal("02040000000000000807060504030201", Convert.ToHexString(bytes));
        Assert.Equal(new LegacyNotifyInfo(2, 4, 0x0102030405060708), LegacyNotifyInfo.Read(bytes));
        bytes = Filled(8);
        new ResourceObject(0x0102, 0x03040506).Write(bytes);
        Assert.Equal("0201000006050403", Convert.ToHexString(bytes));
        Assert.Equal(new ResourceObject(0x0102, 0x03040506), ResourceObject.Read(bytes));
        Assert.Equal(new ResourceObject(0x0102, 6), ResourceObject.Read(bytes.AsSpan(0, 5)));
        bytes = Filled(2);
        new DevicePartsCapability(3, 4).Write(bytes);
        Assert.Equal("0304", Convert.ToHexString(bytes));
        Assert.Equal(new DevicePartsCapability(3, 4), DevicePartsCapability.Read(bytes));
        Assert.Equal(new DevicePartsCapability(3, 0), DevicePartsCapability.Read([3]));
        Assert.Equal(new DevicePartsCapability(0, 0), DevicePartsCapability.Read([]));
        bytes = Filled(16);
        new DevicePart(0x0104, 1, 0x02030405060708FF, 0x0A0B0C0D).Write(bytes);
        Assert.Equal("04010100FF080706050403020D0C0B0A", Convert.ToHexString(bytes));
        Assert.Equal(new DevicePart(0x0104, 1, 0x02030405060708FF, 0x0A0B0C0D), DevicePart.Read(bytes));
    }

    [Fact]
    public void Numbers_are_those_of_the_standard_s_tables()
    {
        Assert.Equal([0xB, 0xC, 0xD], [AdminOpcode.VIRTIO_ADMIN_CMD_RESOURCE_OBJ_QUERY, AdminOpcode.VIRTIO_ADMIN_CMD_RESOURCE_OBJ_MODIFY, AdminOpcode.VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY]);
        Assert.Equal(
            [0, 6, 11, 12, 16, 17, 22, 28],
            [
                AdminStatus.VIRTIO_ADMIN_STATUS_OK, AdminStatus.VIRTIO_ADMIN_STATUS_ENXIO, AdminStatus.VIRTIO_ADMIN_STATUS_EAGAIN, AdminStatus.VIRTIO_ADMIN_STATUS_ENOMEM,
                AdminStatus.VIRTIO_ADMIN_STATUS_EBUSY, AdminStatus.VIRTIO_ADMIN_STATUS_EEXIST, AdminStatus.VIRTIO_ADMIN_STATUS_EINVAL, AdminStatus.VIRTIO_ADMIN_STATUS_ENOSPC,
            ]);
        Assert.Equal((60, 62, 41), (VirtioCommonConfig.admin_queue_index, VirtioCommonConfig.admin_queue_num, VirtioFeatures.VIRTIO_F_ADMIN_VQ));
    }

    private static byte[] Filled(int length)
    {
        var bytes = new byte[length];
        bytes.AsSpan().Fill(0xC5);
        return bytes;
    }
}
