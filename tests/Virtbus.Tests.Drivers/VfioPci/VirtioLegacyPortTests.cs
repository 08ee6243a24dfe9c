using Virtbus.Buses.Pci;
using Virtbus.Drivers.VfioPci;
using Virtbus.Drivers.VirtioVfioPci;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using Virtbus.Virtio.Admin;

namespace Virtbus.Tests.Drivers.VfioPci;

/// <summary>
/// The ports that a virtual function has by its physical one: what config space says of them, and which command each access is (VV-02, VV-05 to VV-08, VV-15;
/// sections 8.2 to 8.5 of the semantics).
/// </summary>
public sealed class VirtioLegacyPortTests
{
    private const int Ports = 32;

    // Per byte of the ports and behind them: c and d for the area that an access beginning there goes to, n for the notification, x for nothing.
    private const string WithoutMsix = "cccccccccccccccc" + "nccc" + "dddddddddddd" + "xxxx";
    private const string WithMsix = "cccccccccccccccc" + "nccccccc" + "dddddddd" + "xxxx";

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Each_access_is_the_command_of_the_place_that_it_begins_at(bool hasMsix)
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        using var open = user;
        user.Config16(PciHeader.PCI_COMMAND, PciCommand.PCI_COMMAND_IO);
        using var signal = new EventFd();
        if (hasMsix)
            user.SetTrigger(VfioPciIrq.VFIO_PCI_MSIX_IRQ_INDEX, 0, signal);
        var (areas, config) = hasMsix ? (WithMsix, 24) : (WithoutMsix, 20);
        for (var offset = 0; offset < areas.Length; offset++)
        {
            foreach (var size in new[] { 1, 2, 4 })
            {
                Check(world, user, offset, size, areas[offset], config, isWrite: false);
                Check(world, user, offset, size, areas[offset], config, isWrite: true);
            }
        }
    }

    private static void Check(VirtioVfioWorld world, PciUser user, int offset, int size, char area, int config, bool isWrite)
    {
        world.Owner.Calls.Clear();
        world.Hardware.Writes.Clear();
        var bytes = new byte[size];
        for (var i = 0; i < size; i++)
            bytes[i] = (byte)(0xC0 + i);
        var isDone = isWrite ? user.Handle.TryWrite(0, (ulong)offset, bytes, out var fault) : user.Handle.TryRead(0, (ulong)offset, bytes, out fault);
        var place = $"offset {offset}, {size} bytes, {(isWrite ? "write" : "read")}";
        if (offset + size > Ports || (area == 'n' && size != 2))
        {
            Assert.True(!isDone && fault.Errno == Errno.EINVAL, place);
            Assert.Empty(world.Owner.Calls);
            Assert.Empty(world.Hardware.Writes);
            return;
        }

        Assert.True(isDone, place + ": " + fault.Message);
        if (area == 'n')
        {
            Assert.Empty(world.Owner.Calls);
            Assert.Equal(isWrite ? ["0 4 3000 c0c1"] : [], world.Hardware.Writes);
            if (!isWrite)
                Assert.Equal([0x5A, 0x5B], bytes);
            return;
        }

        var at = area == 'c' ? offset : offset - config;
        var opcode = (area, isWrite) switch { ('c', true) => 2, ('c', false) => 3, ('d', true) => 4, _ => 5 };
        Assert.Equal($"{opcode} 0 {at:x2}00000000000000{(isWrite ? Convert.ToHexStringLower(bytes) : "")} {(isWrite ? 0 : size)}", Assert.Single(world.Owner.Calls));
        Assert.Empty(world.Hardware.Writes);
        if (!isWrite)
            Assert.Equal(Enumerable.Range(FakeAdminOwner.Pattern + at, size).Select(static b => (byte)b), bytes);
    }

    [Fact]
    public async Task Configuration_moves_when_msix_is_enabled_and_back_when_it_is_disabled_whatever_the_capability_says()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        using var open = user;
        user.Config16(PciHeader.PCI_COMMAND, PciCommand.PCI_COMMAND_IO);
        using var signal = new EventFd();
        for (var round = 0; round < 3; round++)
        {
            Assert.Equal("5 0 0000000000000000 4", Call(20));
            user.SetTrigger(VfioPciIrq.VFIO_PCI_MSIX_IRQ_INDEX, 0, signal);
            Assert.Equal("3 0 1400000000000000 4", Call(20));
            Assert.Equal("5 0 0000000000000000 4", Call(24));
            user.DisableIrqs(VfioPciIrq.VFIO_PCI_MSIX_IRQ_INDEX);
            Assert.Equal("5 0 0400000000000000 4", Call(24));
        }

        // The bit in config space is the user's note, see the tool box.
        var msix = user.Capability(PciCapabilityId.PCI_CAP_ID_MSIX);
        user.Config16(msix + PciMsix.PCI_MSIX_FLAGS, PciMsix.PCI_MSIX_FLAGS_ENABLE);
        Assert.Equal("5 0 0000000000000000 4", Call(20));

        string Call(ulong offset)
        {
            world.Owner.Calls.Clear();
            user.Read32(0, offset);
            return Assert.Single(world.Owner.Calls);
        }
    }

    [Fact]
    public async Task Config_space_is_that_of_a_transitional_network_device_byte_for_byte()
    {
        var world = await VirtioVfioWorld.NewAsync();
        await world.BindAsync(0, "vfio-pci");
        byte[] expected;
        using (var plain = VfioPciWorld.Open(world.Functions[0]))
            expected = plain.ConfigSpace();
        await world.BindAsync(0);
        using var user = VfioPciWorld.Open(world.Functions[0]);
        Assert.Equal(FakeVirtioFunction.Revision, expected[8]);
        (expected[2], expected[3]) = (0x00, 0x10);
        expected[8] = 0;
        expected[0x10] = 1;
        (expected[0x2C], expected[0x2D], expected[0x2E], expected[0x2F]) = (0xF4, 0x1A, 1, 0);
        Assert.Equal(expected, user.ConfigSpace());
        foreach (var size in new[] { 1, 2, 4, 8 })
        {
            for (var at = 0; at <= 0x40; at++)
            {
                var bytes = new byte[size];
                Assert.True(user.Handle.TryRead(PciUser.Config, (ulong)at, bytes, out _));
                Assert.Equal(expected.AsSpan(at, size).ToArray(), bytes);
            }
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    public async Task Ports_are_sized_and_placed_as_a_bar_is(int size)
    {
        var (_, user) = await VirtioVfioWorld.OpenAsync();
        using var open = user;
        Assert.Equal(1u, user.Config32(0x10));
        Write(0xFFFFFFFF);
        Assert.Equal(0xFFFFFFE1, user.Config32(0x10));
        Write(0x0000C13E);
        Assert.Equal(0x0000C121u, user.Config32(0x10));
        Write(0);
        Assert.Equal(1u, user.Config32(0x10));
        // One byte of it alone.
        user.Write(PciUser.Config, 0x11, 1, 0xAB);
        Assert.Equal(0x0000AB01u, user.Config32(0x10));
        // And what lies beside it is the tool box's.
        user.Write(PciUser.Config, 0x0E, 4, 0xFFFFFFFF);
        Assert.Equal(0x0000FFE1u, user.Config32(0x10));
        Assert.Equal(0, user.Config16(0x0E));
        user.Write(PciUser.Config, 0x12, 4, 0xFFFFFFFF);
        Assert.Equal(0xFFFFFFE1, user.Config32(0x10));
        Assert.Equal(0xF000u, user.Config32(0x14) & 0xFFFF);

        void Write(uint value)
        {
            for (var at = 0; at < 4; at += size)
                user.Write(PciUser.Config, (ulong)(0x10 + at), size, value >> (8 * at));
        }
    }

    [Fact]
    public async Task Ports_answer_only_while_the_user_has_them_enabled_and_the_function_awake()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        using var open = user;
        Assert.Equal(0, user.Config16(4) & PciCommand.PCI_COMMAND_IO);
        Disabled();
        // The other bits of the register are the tool box's, and go there.
        user.Config16(4, PciCommand.PCI_COMMAND_MEMORY | PciCommand.PCI_COMMAND_MASTER);
        Assert.Equal(PciCommand.PCI_COMMAND_MEMORY | PciCommand.PCI_COMMAND_MASTER, user.Config16(4));
        Disabled();
        user.Config16(4, PciCommand.PCI_COMMAND_IO | PciCommand.PCI_COMMAND_MASTER);
        Assert.Equal(PciCommand.PCI_COMMAND_IO | PciCommand.PCI_COMMAND_MASTER, user.Config16(4));
        // With memory off, too: whoever knows ports only enables ports only.
        Enabled();
        // The upper byte has no such bit.
        user.Write(PciUser.Config, 5, 1, 0xFE);
        Enabled();
        user.Write(PciUser.Config, 2, 4, PciCommand.PCI_COMMAND_MASTER << 16);
        Disabled();
        user.Write(PciUser.Config, 4, 1, PciCommand.PCI_COMMAND_IO);
        Enabled();
        var power = user.Capability(PciCapabilityId.PCI_CAP_ID_PM);
        user.Config16(power + PciPower.PCI_PM_CTRL, 3);
        Disabled();
        user.Config16(power + PciPower.PCI_PM_CTRL, 0);
        Enabled();
        // What leaves config space changes nothing of it.
        Assert.False(user.Handle.TryWrite(PciUser.Config, 4, new byte[4096], out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Enabled();

        void Disabled()
        {
            Assert.Equal(Errno.EIO, user.ErrorOfRead(0, 0, 4));
            Assert.Equal(Errno.EIO, user.ErrorOfRead(0, 40, 4));
            Assert.Equal(Errno.EIO, user.ErrorOfWrite(0, 16, 2));
            Assert.Equal(Errno.EIO, user.ErrorOfWrite(0, 18, 1));
            Assert.Empty(world.Owner.Calls);
            Assert.Empty(world.Hardware.Writes);
        }

        void Enabled()
        {
            user.Read(0, 18, 1);
            user.Write(0, 16, 2, 0);
            Assert.Single(world.Owner.Calls);
            Assert.Single(world.Hardware.Writes);
            world.Owner.Calls.Clear();
            world.Hardware.Writes.Clear();
        }
    }

    [Theory]
    [InlineData("user")]
    [InlineData("config")]
    [InlineData("system")]
    [InlineData("physical")]
    public async Task Reset_turns_the_ports_off_and_leaves_them_where_they_are(string way)
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        using var open = user;
        user.Config32(0x10, 0xC000);
        user.Config16(4, PciCommand.PCI_COMMAND_IO);
        user.Read(0, 18, 1);
        await world.ResetAsync(user, way);

        Assert.Equal(0, user.Config16(4) & PciCommand.PCI_COMMAND_IO);
        Assert.Equal(Errno.EIO, user.ErrorOfRead(0, 18, 1));
        Assert.Equal(0xC001u, user.Config32(0x10));
        user.Config16(4, PciCommand.PCI_COMMAND_IO);
        user.Read(0, 18, 1);
    }

    [Fact]
    public async Task Next_user_finds_nothing_of_the_one_before()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        user.Config32(0x10, 0xC000);
        user.Config16(4, PciCommand.PCI_COMMAND_IO);
        user.Dispose();
        using var next = VfioPciWorld.Open(world.Functions[0]);
        Assert.Equal(1u, next.Config32(0x10));
        Assert.Equal(Errno.EIO, next.ErrorOfRead(0, 0, 4));
    }

    [Fact]
    public async Task Ports_are_not_mapped_and_the_modern_registers_are_as_they_were()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        using var open = user;
        Assert.True(user.Handle.TryGetRegionInfo(0, out var ports, out _));
        Assert.Equal((VfioRegionFlags.Read | VfioRegionFlags.Write, 32ul), (ports!.Flags, ports.Size));
        Assert.Empty(ports.Areas);
        Assert.Empty(user.Handle.GetDoorbells(0));
        Assert.True(user.Handle.TryGetRegionInfo(FakeVirtioFunction.RegisterBar, out var registers, out _));
        Assert.Equal(0x4000ul, registers!.Size);
        user.Config16(4, PciCommand.PCI_COMMAND_MEMORY);
        Assert.Equal(0x5D5C5B5Au, user.Read32(FakeVirtioFunction.RegisterBar, 0));
        user.Write32(FakeVirtioFunction.RegisterBar, 4, 7);
        Assert.Equal(["0 4 4 07000000"], world.Hardware.Writes);
        Assert.Empty(world.Owner.Calls);
    }

    [Fact]
    public async Task What_the_device_answers_is_the_answer()
    {
        var (world, user) = await VirtioVfioWorld.OpenAsync();
        using var open = user;
        user.Config16(4, PciCommand.PCI_COMMAND_IO);
        foreach (var errno in new[] { Errno.EINVAL, Errno.EAGAIN, Errno.ENOMEM, Errno.EIO, Errno.ETIMEDOUT, Errno.ENODEV })
        {
            for (var opcode = AdminOpcode.VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE; opcode <= AdminOpcode.VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ; opcode++)
                world.Owner.Fails[opcode] = errno;
            Assert.Equal(errno, user.ErrorOfRead(0, 0, 4));
            Assert.Equal(errno, user.ErrorOfWrite(0, 4, 4));
            Assert.Equal(errno, user.ErrorOfRead(0, 20, 4));
            Assert.Equal(errno, user.ErrorOfWrite(0, 20, 1));
        }

        world.Owner.Fails.Clear();
        // The physical function's driver goes, and comes back; notifications do without it.
        world.Physical.SetDriverData<FakeAdminOwner>(null);
        Assert.Equal(Errno.EOPNOTSUPP, user.ErrorOfRead(0, 0, 4));
        user.Write(0, 16, 2, 3);
        Assert.Equal(["0 4 3000 0300"], world.Hardware.Writes);
        world.Physical.SetDriverData(world.Owner);
        user.Read(0, 0, 4);
    }

    /// <summary>Between the end of a function and the moment at which VFIO takes it from its user.</summary>
    [Fact]
    public async Task Function_that_is_gone_looks_so_at_once()
    {
        var world = await VirtioVfioWorld.NewAsync();
        var function = new VirtioLegacyFunction(world.Functions[0], migrates: false);
        Assert.True(function.TryOpen(new VfioOwner("web1"), out var fault), fault.Message);
        Assert.True(function.TryWrite(PciUser.Config, 4, [1], out fault), fault.Message);
        Assert.True(function.TryRead(0, 18, new byte[1], out fault), fault.Message);
        world.Owner.Calls.Clear();
        await world.Base.Bus.SurpriseRemoveAsync(world.Physical).In();
        var bytes = new byte[0x40];
        Assert.True(function.TryRead(PciUser.Config, 0, bytes, out fault), fault.Message);
        Assert.Equal(Enumerable.Repeat((byte)0xFF, bytes.Length), bytes);
        Assert.False(function.TryRead(0, 18, new byte[1], out fault));
        Assert.Equal(Errno.EIO, fault.Errno);
        Assert.Empty(world.Owner.Calls);
        function.Close();
    }
}
