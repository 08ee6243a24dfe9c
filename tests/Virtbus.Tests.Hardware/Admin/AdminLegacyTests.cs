using System.Buffers.Binary;
using Virtbus.Ethernet;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioConsole;
using Virtbus.Models.VirtioNet;
using Virtbus.Models.VirtioRng;
using Virtbus.Pci;
using Virtbus.Tests.Hardware.Virtio;
using Virtbus.Virtio;
using Virtbus.Virtio.Admin;
using static Virtbus.Virtio.Admin.AdminOpcode;
using static Virtbus.Virtio.Admin.AdminQualifier;
using static Virtbus.Virtio.VirtioLegacyConfig;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Hardware.Admin;

/// <summary>A modern virtual function under a driver from before version 1.0, by commands to its owner (VIRTIO 1.4, 2.12.1.1).</summary>
public sealed class AdminLegacyTests
{
    private const ushort Members = AdminRig.Members;
    private const uint FirstPage = (uint)(FunctionSlot.MemoryAddress >> 12);
    private static readonly (int Offset, int Size)[] Fields = [(0, 4), (4, 4), (8, 4), (12, 2), (14, 2), (16, 2), (18, 1), (19, 1), (20, 2), (22, 2)];

    [Fact]
    public void Old_driver_reads_sectors_of_a_modern_function()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        var vf = rig.Vf(1);
        Start(rig, 2);
        var used = vf.OfferLegacySector(3);
        Write(rig, 2, VIRTIO_PCI_QUEUE_NOTIFY, [0, 0]);
        Assert.Equal(AdminVf.Sector(3), vf.AwaitLegacySector(used));
        Deadline.Until(() => Read(rig, 2, VIRTIO_PCI_ISR, 1)[0] == 1, "the interrupt in the ISR");
        // The read has cleared it.
        Assert.Equal([0], Read(rig, 2, VIRTIO_PCI_ISR, 1));
        Assert.Equal([0], Read(rig, 1, VIRTIO_PCI_STATUS, 1));
    }

    // 2.12.1.1.5: at its place a number of a queue notifies as the command does.
    [Fact]
    public void Place_of_notifications_does_what_the_command_does()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        var vf = rig.Vf(0);
        var info = Info(rig, 1);
        Assert.NotEqual(PciBarKind.None, vf.Function.GetBar(info.Bar).Kind);
        Assert.Equal((0ul, LegacyNotifyInfo.VIRTIO_ADMIN_CMD_NOTIFY_INFO_FLAGS_OWNER_MEM), (info.Offset % 2, info.Flags));
        Assert.True(info.Offset + 2 <= vf.Function.GetBar(info.Bar).Size);
        // Drivers of the time may use a queue before they say that they are ready.
        Start(rig, 1, isReady: false);
        for (ulong sector = 1; sector < 4; sector++)
        {
            if (sector > 1)
                AwaitSleep(vf);
            var used = vf.OfferLegacySector(sector);
            vf.Function.WriteBar(info.Bar, info.Offset, [0, 0]);
            Assert.Equal(AdminVf.Sector((int)sector), vf.AwaitLegacySector(used));
        }

        // The number is what counts: this is of another queue, and these are none.
        AwaitSleep(vf);
        var last = vf.OfferLegacySector(4);
        foreach (var other in (byte[][])[[1, 0], [2, 0], [0xFF, 0xFF], [0], [0, 0, 0, 0]])
            vf.Function.WriteBar(info.Bar, info.Offset, other);
        Assert.Equal(new byte[512], vf.Content());
        vf.Function.WriteBar(info.Bar, info.Offset, [0, 0]);
        Assert.Equal(AdminVf.Sector(4), vf.AwaitLegacySector(last));
    }

    [Fact]
    public void Notification_of_an_old_driver_takes_no_memory_and_needs_no_turn()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        var vf = rig.Vf(0);
        var info = Info(rig, 1);
        Start(rig, 1);
        Span<byte> value = stackalloc byte[2];
        value.Clear();
        for (var i = 0; i < 2000; i++)
            vf.Function.WriteBar(info.Bar, info.Offset, value);
        var before = GC.GetAllocatedBytesForCurrentThread();
        for (var i = 0; i < 10_000; i++)
            vf.Function.WriteBar(info.Bar, info.Offset, value);
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
    }

    // 2.12.1.1.5: the last entry is the end; VF BAR 0 is hard-wired to 0.
    [Fact]
    public void List_of_places_ends_and_BAR_0_of_virtual_functions_is_none()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        var list = rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO, Members, 1, [], 256);
        Assert.Equal(64, list.Length);
        Assert.False(list.AsSpan(16).ContainsAnyExcept((byte)0));
        Assert.Equal([2, 4, 0, 0, 0, 0, 0, 0, 0xFC, 0x3F, 0, 0, 0, 0, 0, 0], list[..16]);
        Assert.Equal(PciBarKind.None, rig.Vf(0).Function.GetBar(0).Kind);
        var sriov = rig.Physical.ConfigLayout.FindExtendedCapability(PciExtendedCapabilityId.PCI_EXT_CAP_ID_SRIOV);
        rig.Physical.WriteConfig(sriov + PciSriov.PCI_SRIOV_BAR, [0xFF, 0xFF, 0xFF, 0xFF]);
        Span<byte> bar = stackalloc byte[4];
        rig.Physical.ReadConfig(sriov + PciSriov.PCI_SRIOV_BAR, bar);
        Assert.Equal(new byte[4], bar);
    }

    // 2.12.1.1: exactly one field, within the header; 20 to 23 are of it while MSI-X is enabled.
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Access_is_to_one_field_of_the_header_or_refused(bool hasMsix)
    {
        using var rig = new AdminRig(functions: 1);
        rig.UseAll();
        rig.Vf(0).EnableMsix(hasMsix);
        for (var offset = 0; offset < 28; offset++)
        {
            for (var length = 0; length < 10; length++)
            {
                var isField = length > 0 && offset + length <= (hasMsix ? 24 : 20) && Fields.Any(f => offset >= f.Offset && offset + length <= f.Offset + f.Size);
                var (read, result) = rig.SendUntilHeard(VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ, Members, 1, [(byte)offset], length);
                var (write, _) = rig.SendUntilHeard(VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE, Members, 1, [(byte)offset, .. new byte[7 + length]]);
                var expected = isField ? AdminAnswer.Ok : AdminAnswer.InvalidField;
                Assert.Equal((offset, length, expected, expected, isField ? length : 0), (offset, length, read, write, result.Length));
            }
        }
    }

    // 2.12.1.1: the same of the configuration of the device's type, whose end is that of the device's.
    [Fact]
    public void Access_is_to_one_field_of_the_configuration_or_refused()
    {
        var network = new EthernetSwitch();
        using var net = new AdminRig(make: index => new VirtioNetDevice(index is { } i ? $"vf{i}" : "pf", network, new VirtioNetOptions(0x020000000010u + (ulong)(index ?? 9))));
        net.UseAll();
        Accepts(net, (0, 6), (0, 1), (5, 1), (0, 4), (6, 2), (7, 1), (10, 2));
        Refuses(net, (0, 0), (5, 2), (0, 8), (6, 4), (250, 6), (255, 1));
        using var disk = new AdminRig();
        disk.UseAll();
        Accepts(disk, (0, 8), (4, 4), (8, 4), (18, 1), (20, 4), (32, 1));
        Refuses(disk, (0, 9), (7, 2), (17, 2), (8, 8), (96, 1), (255, 8));
        using var console = new AdminRig(make: static index => new VirtioConsoleDevice($"c{index}"));
        console.UseAll();
        Accepts(console, (0, 2), (2, 2), (4, 4));
        Refuses(console, (0, 4), (1, 2));
        using var random = new AdminRig(make: static index => new VirtioRngDevice($"r{index}"));
        random.UseAll();
        Refuses(random, (0, 1), (0, 0));
    }

    // 2.12.1.1: what the commands do is what the ports of a transitional function do, by the same numbers in little endian.
    [Theory]
    [InlineData(1, false)]
    [InlineData(2, true)]
    [InlineData(3, true)]
    public void Commands_do_what_the_ports_of_a_transitional_function_do(int seed, bool hasMsix)
    {
        using var rig = new AdminRig();
        rig.UseAll();
        using var old = VirtioFunctionTests.Disk(out _, new VirtioFunctionOptions { IsTransitional = true });
        var vf = rig.Vf(0);
        if (hasMsix)
        {
            vf.EnableMsix();
            old.EnableMsix(3);
        }

        var random = new Random(seed);
        var header = hasMsix ? 24 : 20;
        Span<byte> bytes = stackalloc byte[8];
        Span<byte> port = stackalloc byte[8];
        for (var step = 0; step < 4000; step++)
        {
            var isConfig = random.Next(5) == 0;
            var (offset, size) = isConfig ? ((int, int))((random.Next(12) & ~3), 4) : Fields[random.Next(hasMsix ? 10 : 8)];
            if (random.Next(2) == 0)
            {
                old.Function.ReadBar(0, (ulong)(isConfig ? header + offset : offset), port[..size]);
                var read = rig.Ok(isConfig ? VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ : VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ, Members, 1, [(byte)offset], size);
                Assert.Equal((step, offset, Convert.ToHexString(port[..size])), (step, offset, Convert.ToHexString(read)));
                continue;
            }

            random.NextBytes(bytes);
            // Values that make sense, most of the time.
            if (random.Next(4) != 0)
            {
                var value = offset switch
                {
                    VIRTIO_PCI_QUEUE_PFN => FirstPage + (uint)random.Next(3),
                    VIRTIO_PCI_STATUS => (uint)random.Next(8),
                    _ => (uint)random.Next(4),
                };
                BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
            }

            old.Function.WriteBar(0, (ulong)(isConfig ? header + offset : offset), bytes[..size]);
            rig.Ok(isConfig ? VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_WRITE : VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE, Members, 1, [(byte)offset, 0, 0, 0, 0, 0, 0, 0, .. bytes[..size]]);
        }
    }

    [Fact]
    public void Vectors_of_an_old_driver_are_the_function_s_own()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        var vf = rig.Vf(0);
        vf.EnableMsix();
        Start(rig, 1, vector: 2);
        var used = vf.OfferLegacySector(1);
        Write(rig, 1, VIRTIO_PCI_QUEUE_NOTIFY, [0, 0]);
        Assert.Equal(AdminVf.Sector(1), vf.AwaitLegacySector(used));
        Deadline.Until(() => vf.Slot.Messages.Contains((0xFEE00000, 0xA2u)), "the message");
        vf.EnableMsix(isOn: false);
        rig.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_FIELD, VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ, Members, 1, [VIRTIO_MSI_QUEUE_VECTOR], 2);
    }

    // Either driver finds a device that is reset, whoever had it before.
    [Fact]
    public void Modern_driver_comes_after_an_old_one_and_the_other_way_round()
    {
        using var rig = new AdminRig();
        rig.UseAll();
        var vf = rig.Vf(0);
        for (var round = 0; round < 2; round++)
        {
            Start(rig, 1);
            var used = vf.OfferLegacySector(2);
            Write(rig, 1, VIRTIO_PCI_QUEUE_NOTIFY, [0, 0]);
            Assert.Equal(AdminVf.Sector(2), vf.AwaitLegacySector(used));
            vf.Start();
            Assert.Equal([0], Read(rig, 1, VIRTIO_PCI_STATUS, 1));
            vf.OfferSector(5);
            Assert.Equal(AdminVf.Sector(5), vf.AwaitSector());
            vf.Function.Reset();
            vf.Function.WriteConfig(PciHeader.PCI_COMMAND, [PciCommand.PCI_COMMAND_MASTER, 0]);
        }
    }

    // Whoever looks at a function by its owner changes nothing that a modern driver, which sets the function up meanwhile, has selected.
    [Fact]
    public void Reads_leave_a_modern_driver_s_selectors_alone()
    {
        using var rig = new AdminRig(functions: 1);
        rig.UseAll();
        var vf = rig.Vf(0);
        vf.EnableMsix();
        vf.Start(vector: 2);
        vf.Registers.WriteUInt16(VirtioCommonConfig.queue_select, 1);
        vf.Registers.WriteUInt16(VirtioCommonConfig.queue_msix_vector, 1);
        var before = Common();
        foreach (var (offset, size) in Fields)
            Read(rig, 1, offset, size);
        // The one that is selected there, queue 0.
        Assert.Equal([2, 0], Read(rig, 1, VIRTIO_MSI_QUEUE_VECTOR, 2));
        rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ, Members, 1, [0], 8);
        Assert.Equal(before, Common());

        byte[] Common()
        {
            var bytes = new byte[VirtioCommonConfig.Size];
            vf.Function.ReadBar(Info(rig, 1).Bar, 0, bytes);
            return bytes;
        }
    }

    // A command that meets a reset that has to wait for a peer is to be tried again (2.12.1), and changes nothing.
    [Fact]
    public void Function_that_is_being_reset_is_to_be_asked_again()
    {
        using var rig = new AdminRig(make: static index => new VirtioRngDevice($"r{index}"));
        rig.UseAll();
        var vf = rig.Vf(0);
        var held = vf.StartHeld();
        try
        {
            vf.Ask();
            Deadline.Until(() => held.Waiting > 0, "a message");
            vf.Registers.Write(VirtioCommonConfig.device_status, [0]);
            Assert.NotEqual(0, vf.Driver.Status);
            rig.Refused(AdminAnswer.TryAgain, VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ, Members, 1, [0], 4);
            rig.Refused(AdminAnswer.TryAgain, VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE, Members, 1, [VIRTIO_PCI_GUEST_FEATURES, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8]);
        }
        finally
        {
            held.Release();
        }

        Deadline.Until(() => vf.Driver.Status == 0, "the end of the reset");
        Assert.Equal([0, 0, 0, 0], Read(rig, 1, VIRTIO_PCI_GUEST_FEATURES, 4));
    }

    private static void Accepts(AdminRig rig, params (int Offset, int Length)[] places)
    {
        foreach (var (offset, length) in places)
        {
            var bytes = rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ, Members, 1, [(byte)offset], length);
            var device = rig.Physical.FindVirtualDevice(0)!;
            var expected = new byte[length];
            Assert.True(device.TryGetConfig(offset, expected, out _));
            Assert.Equal(expected, bytes);
            rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_WRITE, Members, 1, [(byte)offset, 0, 0, 0, 0, 0, 0, 0, .. bytes]);
        }
    }

    private static void Refuses(AdminRig rig, params (int Offset, int Length)[] places)
    {
        foreach (var (offset, length) in places)
        {
            rig.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_FIELD, VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ, Members, 1, [(byte)offset], length);
            rig.Refused(VIRTIO_ADMIN_STATUS_Q_INVALID_FIELD, VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_WRITE, Members, 1, [(byte)offset, 0, 0, 0, 0, 0, 0, 0, .. new byte[length]]);
        }
    }

    // The queue asks for notifications (VRING_USED_F_NO_NOTIFY is clear) and looks at its ring no more until one comes.
    private static void AwaitSleep(AdminVf vf) => Deadline.Until(
        () =>
        {
            Span<byte> flags = stackalloc byte[2];
            vf.Slot.Memory.Read(0x5000, flags);
            return flags[0] == 0;
        },
        "sleep of the queue");

    private static LegacyNotifyInfo Info(AdminRig rig, ulong member) => LegacyNotifyInfo.Read(rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO, Members, member, [], 64));

    private static void Start(AdminRig rig, ulong member, bool isReady = true, ushort? vector = null)
    {
        Write(rig, member, VIRTIO_PCI_STATUS, [0]);
        Write(rig, member, VIRTIO_PCI_STATUS, [ACKNOWLEDGE]);
        Write(rig, member, VIRTIO_PCI_STATUS, [ACKNOWLEDGE | DRIVER]);
        var features = Read(rig, member, VIRTIO_PCI_HOST_FEATURES, 4);
        features[3] &= unchecked((byte)~0x20);
        Write(rig, member, VIRTIO_PCI_GUEST_FEATURES, features);
        Write(rig, member, VIRTIO_PCI_QUEUE_SEL, [0, 0]);
        Assert.Equal([0, 4], Read(rig, member, VIRTIO_PCI_QUEUE_NUM, 2));
        rig.Vf((int)member - 1).Slot.Memory.Write(0, new byte[0x8000]);
        Write(rig, member, VIRTIO_PCI_QUEUE_PFN, BitConverter.GetBytes(FirstPage));
        if (vector is { } wanted)
            Write(rig, member, VIRTIO_MSI_QUEUE_VECTOR, BitConverter.GetBytes(wanted));
        if (isReady)
            Write(rig, member, VIRTIO_PCI_STATUS, [ACKNOWLEDGE | DRIVER | DRIVER_OK]);
    }

    private static byte[] Read(AdminRig rig, ulong member, int offset, int length) => rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ, Members, member, [(byte)offset], length);

    private static void Write(AdminRig rig, ulong member, int offset, byte[] value) =>
        rig.Ok(VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE, Members, member, [(byte)offset, 0, 0, 0, 0, 0, 0, 0, .. value]);
}
