using System.Buffers.Binary;
using System.Text;
using Virtbus.Block;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Memory;
using Virtbus.Models.VirtioBlk;
using Virtbus.Models.VirtioConsole;
using Virtbus.Models.VirtioRng;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Virtio.VirtioCommonConfig;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Hardware.Virtio;

/// <summary>A virtio function as its driver finds it: capabilities, registers, interrupts, resets.</summary>
public sealed class VirtioFunctionTests
{
    private static readonly VirtioFeatures Plain = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_EVENT_IDX);

    [Fact]
    public void Fault_of_a_queue_that_can_not_start_is_told_when_nobody_is_kept_out()
    {
        using var card = new VirtioCard(new VirtioRngDevice("rng"), new VirtioFunctionOptions { Vectors = 0 });
        var (lines, faults) = (0, 0);
        card.Slot.OnLine = _ => lines += Reads(() => card.Registers.ReadByte(device_status)) ? 1 : -100;
        card.Function.SetDriverFaultCallback((device, _, _) => faults += Reads(() => _ = device.DriverFeatures) ? 1 : -100);
        Assert.True(card.Driver.TrySetStatus(ACKNOWLEDGE | DRIVER, out _));
        Assert.True(card.Driver.TrySetDriverFeatures(VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1), out _));
        Assert.True(card.Driver.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK, out _));
        card.Driver.Select(0);
        card.Driver.SetQueueAddress(new Iova(FunctionSlot.MemoryAddress + 8), default, default);
        Assert.True(card.Driver.TryEnable());
        card.Registers.Write(device_status, [VirtioCard.Running]);
        Assert.Equal((1, 1), (lines, faults));
        Assert.Equal(DEVICE_NEEDS_RESET, card.Driver.Status & DEVICE_NEEDS_RESET);

        static bool Reads(Action read)
        {
            var reader = new Thread(() => read());
            reader.Start();
            return reader.Join(TimeSpan.FromSeconds(10));
        }
    }

    [Fact]
    public void Structures_stand_in_the_capabilities_where_they_are()
    {
        using var card = Disk(out _);
        var registers = card.Registers;
        Assert.Equal((4, 0u, 64u), (registers.Common.Bar, registers.Common.Offset, registers.Common.Length));
        Assert.Equal((4, 0x1000u, 1u), (registers.Isr.Bar, registers.Isr.Offset, registers.Isr.Length));
        Assert.Equal((4, 0x2000u, 96u), (registers.Config!.Value.Bar, registers.Config.Value.Offset, registers.Config.Value.Length));
        Assert.Equal((4, 0x3000u, 8u), (registers.Notifications.Bar, registers.Notifications.Offset, registers.Notifications.Length));
        Assert.Equal((0x1AF4, 0x1042), (card.Config16(PciHeader.PCI_VENDOR_ID), card.Config16(PciHeader.PCI_DEVICE_ID)));
        Assert.True(card.Config16(PciHeader.PCI_SUBSYSTEM_ID) >= 0x40);
        Assert.Equal(1, card.Config16(PciHeader.PCI_REVISION_ID) & 0xFF);
    }

    [Fact]
    public void Device_without_a_configuration_space_has_no_capability_for_it()
    {
        using var card = new VirtioCard(new VirtioRngDevice("rng"));
        Assert.Null(card.Registers.Config);
        Assert.Equal(new byte[8], card.Bar(4, 0x2000, 8));
    }

    [Fact]
    public void Requests_are_done_with_a_vector_for_each_queue()
    {
        using var card = Disk(out var medium);
        card.EnableMsix(3);
        card.Registers.WriteUInt16(config_msix_vector, 0);
        card.Start(vectors: static queue => (ushort)(queue + 1));
        for (var queue = 0; queue < 2; queue++)
        {
            card.Slot.Messages.Clear();
            Assert.Equal(0, ReadSector(card, queue, 3, out var bytes));
            Assert.Equal(Sector(medium, 3), bytes);
            Deadline.Until(() => card.Slot.Messages.Contains((0xFEE00000, 0xA1 + (uint)queue)), "the queue's message");
        }

        Assert.False(card.Slot.Line);
        // With MSI-X the queue bit is not for the ISR (4.1.4.5.1).
        Assert.Equal(0, card.Registers.TakeInterrupts());
    }

    [Fact]
    public void Without_messages_the_line_says_it_until_the_ISR_is_read()
    {
        using var card = Disk(out _);
        card.Start();
        ReadSector(card, 1, 0, out _);
        Deadline.Until(() => card.Slot.Line, "the line");
        Assert.Equal(PciStatus.PCI_STATUS_INTERRUPT, card.Config16(PciHeader.PCI_STATUS) & PciStatus.PCI_STATUS_INTERRUPT);
        Assert.Equal(1, card.Registers.TakeInterrupts());
        Assert.False(card.Slot.Line);
        Assert.Equal(0, card.Registers.TakeInterrupts());
        ReadSector(card, 0, 0, out _);
        Deadline.Until(() => card.Slot.Line, "the line again");
        Assert.True(card.Driver.TryReset(out _));
        Assert.False(card.Slot.Line);
        Assert.Equal(0, card.Registers.TakeInterrupts());
    }

    [Fact]
    public void Vector_that_there_is_not_reads_back_as_none_and_a_reset_forgets_all()
    {
        using var card = Disk(out _);
        Assert.Equal(VIRTIO_MSI_NO_VECTOR, card.Registers.ReadUInt16(config_msix_vector));
        card.Registers.WriteUInt16(config_msix_vector, 3);
        Assert.Equal(VIRTIO_MSI_NO_VECTOR, card.Registers.ReadUInt16(config_msix_vector));
        card.Registers.WriteUInt16(config_msix_vector, 2);
        Assert.Equal(2, card.Registers.ReadUInt16(config_msix_vector));
        card.Driver.Select(1);
        Assert.False(card.Driver.TrySetQueueVector(0x7FF));
        Assert.True(card.Driver.TrySetQueueVector(1));
        Assert.True(card.Driver.TryReset(out _));
        Assert.Equal(VIRTIO_MSI_NO_VECTOR, card.Registers.ReadUInt16(config_msix_vector));
        card.Driver.Select(1);
        Assert.Equal(VIRTIO_MSI_NO_VECTOR, card.Registers.ReadUInt16(queue_msix_vector));
    }

    [Fact]
    public void Change_of_the_configuration_is_told_by_both_ways_and_by_the_generation()
    {
        using var medium = new MemoryBackend(1 << 20);
        var device = new ChangingDevice();
        using var card = new VirtioCard(device);
        card.Start();
        var before = card.Driver.ConfigGeneration;
        device.Change(7);
        Assert.True(card.Slot.Line);
        Assert.Equal(2, card.Registers.TakeInterrupts());
        Assert.NotEqual(before, card.Driver.ConfigGeneration);
        // As many changes as the number has values are seen as well.
        before = card.Driver.ConfigGeneration;
        for (var i = 0; i < 256; i++)
            device.Change(i);
        Assert.NotEqual(before, card.Driver.ConfigGeneration);
        card.Registers.TakeInterrupts();
        card.EnableMsix(2);
        card.Registers.WriteUInt16(config_msix_vector, 1);
        device.Change(8);
        Assert.Contains((0xFEE00000u, 0xA1u), card.Slot.Messages);
        Assert.Equal(2, card.Registers.TakeInterrupts());
    }

    [Fact]
    public void Feature_words_beyond_the_last_read_0_and_the_bus_adds_its_own()
    {
        using var card = Disk(out _);
        for (var select = 4u; select < 8; select++)
        {
            card.Registers.WriteUInt32(device_feature_select, select);
            Assert.Equal(0u, card.Registers.ReadUInt32(device_feature));
        }

        var offered = card.Driver.DeviceFeatures;
        Assert.True(VirtioFeatures.Of(
            VirtioFeatures.VIRTIO_F_ACCESS_PLATFORM, VirtioFeatures.VIRTIO_F_VERSION_1, VirtioFeatures.VIRTIO_F_RING_RESET).IsWithin(offered));
        Assert.False(offered.Has(VirtioFeatures.VIRTIO_F_NOTIFICATION_DATA));
        Assert.False(offered.Has(VirtioFeatures.VIRTIO_F_SR_IOV));
    }

    [Fact]
    public void Driver_that_does_not_take_version_1_does_not_get_its_features()
    {
        using var card = Disk(out _);
        Assert.True(card.Driver.TrySetStatus(ACKNOWLEDGE | DRIVER, out _));
        Assert.True(card.Driver.TrySetDriverFeatures(VirtioFeatures.None, out _));
        Assert.False(card.Driver.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK, out _));
        Assert.Equal(ACKNOWLEDGE | DRIVER, card.Driver.Status);
    }

    [Fact]
    public void Queue_that_is_reset_alone_begins_anew_and_the_other_goes_on()
    {
        using var card = Disk(out var medium);
        card.Start();
        for (var i = 0; i < 5; i++)
            ReadSector(card, 0, 1, out _);
        ReadSector(card, 1, 1, out _);
        card.Driver.Select(0);
        card.Registers.WriteUInt16(queue_reset, 1);
        Assert.Equal(0, card.Registers.ReadUInt16(queue_reset));
        Assert.False(card.Driver.IsEnabled);
        Assert.Equal(0ul, card.Registers.ReadUInt64(queue_desc));
        ReadSector(card, 1, 2, out var bytes);
        Assert.Equal(Sector(medium, 2), bytes);
        card.Driver.Select(0);
        card.Rings[0] = card.SetUp(0);
        Assert.True(card.Driver.TryEnable());
        ReadSector(card, 0, 4, out bytes);
        Assert.Equal(Sector(medium, 4), bytes);
    }

    [Fact]
    public void Queue_reset_is_for_who_took_the_feature()
    {
        using var card = Disk(out _);
        card.Start(without: VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_RING_RESET));
        card.Driver.Select(0);
        card.Registers.WriteUInt16(queue_reset, 1);
        Assert.True(card.Driver.IsEnabled);
        ReadSector(card, 0, 1, out _);
    }

    [Fact]
    public void Broken_ring_needs_a_reset_and_is_told_once()
    {
        using var card = Disk(out var medium);
        var told = new List<(int Queue, Fault Fault)>();
        card.Function.SetDriverFaultCallback((_, queue, fault) => told.Add((queue, fault)));
        for (var i = 0; i < 3; i++)
        {
            card.Start(Plain);
            card.Registers.TakeInterrupts();
            // A buffer where there is no memory.
            card.Offer(1, new DriverBuffer(new Iova(0x10), 512, true));
            Deadline.Until(() => (card.Driver.Status & DEVICE_NEEDS_RESET) != 0, "DEVICE_NEEDS_RESET");
            Deadline.Until(() => (card.Registers.TakeInterrupts() & 2) != 0, "the change of the configuration");
        }

        var (first, cause) = Assert.Single(told);
        Assert.Equal(1, first);
        Assert.NotEqual(Errno.None, cause.Errno);
        // Another user is another story.
        card.Function.Reset();
        card.SetCommand(PciCommand.PCI_COMMAND_MEMORY | PciCommand.PCI_COMMAND_MASTER);
        card.Start(Plain);
        ReadSector(card, 0, 1, out var bytes);
        Assert.Equal(Sector(medium, 1), bytes);
        card.Offer(0, new DriverBuffer(new Iova(0x10), 512, true));
        Deadline.Until(() => told.Count == 2, "the second story");
    }

    [Fact]
    public void Queue_with_a_wrong_size_is_not_enabled_and_told()
    {
        using var card = Disk(out _);
        var told = new List<Fault>();
        card.Function.SetDriverFaultCallback((_, _, fault) => told.Add(fault));
        card.Driver.TrySetStatus(ACKNOWLEDGE | DRIVER, out _);
        card.Driver.TrySetDriverFeatures(card.Driver.DeviceFeatures, out _);
        card.Driver.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK, out _);
        card.Driver.Select(0);
        card.Driver.SetQueueSize(3);
        Assert.False(card.Driver.TryEnable());
        Assert.Equal(Errno.EINVAL, Assert.Single(told).Errno);
    }

    [Fact]
    public void Function_that_is_no_bus_master_does_nothing_until_it_is_one()
    {
        using var card = Disk(out _);
        card.EnableMsix(3);
        card.Start(Plain, static _ => 1);
        card.SetCommand(PciCommand.PCI_COMMAND_MEMORY);
        card.Offer(0, Header(card, 0, 1));
        card.Registers.Notify(0);
        Assert.False(card.Rings[0].TryTakeUsed(out _, out _, out _));
        Assert.Empty(card.Slot.Messages);
        card.SetCommand(PciCommand.PCI_COMMAND_MEMORY | PciCommand.PCI_COMMAND_MASTER);
        card.Await(0);
        Deadline.Until(() => !card.Slot.Messages.IsEmpty, "the message");
    }

    [Fact]
    public void Function_level_reset_forgets_what_a_driver_did()
    {
        using var card = Disk(out _);
        card.EnableMsix(3);
        card.Start(vectors: static _ => 1);
        ReadSector(card, 0, 1, out _);
        var express = card.Function.ConfigLayout.FindCapability(PciCapabilityId.PCI_CAP_ID_EXP);
        card.Function.WriteConfig(express + PciExpress.PCI_EXP_DEVCTL + 1, [0x80]);
        card.SetCommand(PciCommand.PCI_COMMAND_MEMORY | PciCommand.PCI_COMMAND_MASTER);
        Assert.Equal(0, card.Driver.Status);
        card.Driver.Select(0);
        Assert.False(card.Driver.IsEnabled);
        Assert.Equal(VIRTIO_MSI_NO_VECTOR, card.Registers.ReadUInt16(queue_msix_vector));
        card.Start();
        ReadSector(card, 0, 1, out _);
    }

    [Fact]
    public void Function_without_power_has_no_registers()
    {
        using var card = Disk(out _);
        card.Start();
        var power = card.Function.ConfigLayout.FindCapability(PciCapabilityId.PCI_CAP_ID_PM);
        card.Function.WriteConfig(power + PciPower.PCI_PM_CTRL, [3, 0]);
        Assert.Equal(0xFF, card.Driver.Status);
        card.Function.WriteConfig(power + PciPower.PCI_PM_CTRL, [0, 0]);
        Assert.Equal(VirtioCard.Running, card.Driver.Status);
    }

    [Fact]
    public void Window_in_config_space_reaches_every_structure_and_no_vector()
    {
        using var card = Disk(out var medium);
        var window = card.Registers.Window.Capability;
        Assert.Equal((ushort)2, (ushort)ReadWindow(card, window, 4, num_queues, 2));
        WriteWindow(card, window, 4, device_status, 1, ACKNOWLEDGE);
        Assert.Equal(ACKNOWLEDGE, card.Driver.Status);
        Assert.Equal((uint)(medium.Info.Capacity / 512), ReadWindow(card, window, 4, 0x2000, 4));
        // Not the vector table of BAR 1, which may be somebody else's to write.
        WriteWindow(card, window, 1, 12, 4, 0);
        Assert.Equal([1, 0, 0, 0], card.Bar(1, 12, 4));
        // What is wrong reaches nothing.
        WriteWindow(card, window, 4, device_status, 3, 0);
        WriteWindow(card, window, 5, device_status, 1, 0);
        WriteWindow(card, window, 9, device_status, 1, 0);
        WriteWindow(card, window, 4, 0x4000, 4, 0);
        WriteWindow(card, window, 4, uint.MaxValue, 1, 0);
        WriteWindow(card, window, 4, device_status + 1u, 2, 0);
        Assert.Equal(ACKNOWLEDGE, card.Driver.Status);
        // Not aligned: what was written last is read, and not the status in the upper byte.
        Assert.Equal(0u, ReadWindow(card, window, 4, num_queues + 1u, 2));
        // The rest of the capability is not the driver's.
        card.Function.WriteConfig(window, [1, 2, 3, 4]);
        Assert.Equal((9, 5), (card.Config16(window) & 0xFF, card.Config16(window + 2) >> 8));
    }

    [Fact]
    public void Notification_with_data_is_one_too()
    {
        using var card = Disk(out _, new VirtioFunctionOptions { HasNotificationData = true });
        card.Start(Plain);
        card.Rings[0].Add(Header(card, 0, 1));
        card.Rings[0].Publish();
        Assert.True(card.Features.Has(VirtioFeatures.VIRTIO_F_NOTIFICATION_DATA));
        card.Function.WriteBar(4, 0x3000, [0, 0, 1, 0]);
        card.Await(0);
    }

    [Fact]
    public void Eventfd_stands_for_a_notification()
    {
        using var card = Disk(out _);
        card.Start(Plain);
        using var signal = new EventFd();
        var doorbell = card.Function.Doorbells[1];
        Assert.Equal(new PciDoorbell(4, 0x3004, 2), doorbell);
        Assert.True(card.Function.TryAttachDoorbell(doorbell, signal, out _));
        Assert.False(card.Function.TryAttachDoorbell(doorbell with { Offset = 0x3008 }, signal, out var fault));
        Assert.Equal(Errno.ENOENT, fault.Errno);
        card.Rings[1].Add(Header(card, 1, 1));
        card.Rings[1].Publish();
        signal.Signal();
        card.Await(1);
        Assert.True(card.Function.TryAttachDoorbell(doorbell, null, out _));
        ReadSector(card, 1, 1, out _);
    }

    [Fact]
    public void Unplugged_function_touches_no_memory_and_its_registers_live()
    {
        using var card = Disk(out _);
        card.Start(Plain);
        card.Function.Unplug();
        card.Offer(0, Header(card, 0, 1));
        card.Registers.Notify(0);
        Assert.False(card.Rings[0].TryTakeUsed(out _, out _, out _));
        Assert.Equal(VirtioCard.Running, card.Driver.Status);
        card.Function.Plug(card.Slot);
        card.Await(0);
    }

    [Fact]
    public void Entropy_comes_and_each_buffer_has_its_own()
    {
        using var card = new VirtioCard(new VirtioRngDevice("rng"));
        card.Start();
        var first = card.Fill(0, 512);
        var second = card.Fill(0, 512);
        Assert.Equal((512, 512), (first.Length, second.Length));
        Assert.NotEqual(first, second);
        Assert.True(first.Distinct().Count() > 100);
        Assert.Equal(4096, card.Fill(0, 8192).Length);
    }

    [Fact]
    public void Console_carries_text_both_ways_and_its_guest_waits_for_nobody()
    {
        var device = new VirtioConsoleDevice("console");
        using var card = new VirtioCard(device);
        var peer = new Reader();
        Assert.True(device.TryConnect(peer, out _));
        Assert.False(device.TryConnect(new Reader(), out _));
        card.Start();
        card.Give(1, "hello"u8);
        Deadline.Until(() => peer.Text == "hello", "the guest's text");
        card.Offer(0, 64);
        Assert.False(card.Rings[0].TryTakeUsed(out _, out _, out _));
        Assert.Equal(5, device.TrySend("there"u8));
        Assert.Equal(5u, card.Await(0));
        // Who does not read loses text; the guest has its buffers back.
        peer.Room = 0;
        for (var i = 0; i < 100; i++)
            card.Give(1, "one"u8);
        peer.Room = int.MaxValue;
        card.Give(1, "two"u8);
        Deadline.Until(() => peer.Text == "hellotwo", "what came when it read again");
        Assert.Equal(100ul, device.GetQueueCounters(1).Errors);
        // More than there is room for comes later.
        var sent = device.TrySend(new byte[10000]);
        Assert.InRange(sent, 1, 9999);
        card.Fill(0, 1024);
        Deadline.Until(() => peer.CouldSend > 0, "room");
    }

    [Fact]
    public void Who_waits_for_room_at_a_reset_goes_on_after_it()
    {
        var device = new VirtioConsoleDevice("console");
        using var card = new VirtioCard(device);
        var peer = new Reader();
        Assert.True(device.TryConnect(peer, out _));
        Assert.InRange(device.TrySend(new byte[10000]), 1, 9999);
        Assert.Equal(0, peer.CouldSend);
        card.Function.Reset();
        Assert.Equal(1, peer.CouldSend);
        card.SetCommand(PciCommand.PCI_COMMAND_MEMORY | PciCommand.PCI_COMMAND_MASTER);
        card.Start();
        device.TrySend("there"u8);
        Assert.Equal("there", Encoding.ASCII.GetString(card.Fill(0, 64)));
    }

    [Fact]
    public void What_is_dropped_at_a_reset_is_dropped_before_the_count_tells_of_it()
    {
        var device = new VirtioConsoleDevice("console");
        using var card = new VirtioCard(device);
        var peer = new Reader();
        Assert.True(device.TryConnect(peer, out _));
        var before = device.Resets;
        peer.OnDrop = () => Assert.Equal(before, device.Resets);
        card.Function.Reset();
        Assert.Equal(before + 1, device.Resets);
    }

    [Fact]
    public void Text_for_a_guest_that_went_is_for_nobody()
    {
        var device = new VirtioConsoleDevice("console");
        using var card = new VirtioCard(device);
        var resets = device.Resets;
        device.TrySend("old"u8);
        card.Function.Reset();
        card.SetCommand(PciCommand.PCI_COMMAND_MEMORY | PciCommand.PCI_COMMAND_MASTER);
        Assert.Equal(3, device.TrySend("odd"u8, resets));
        card.Start();
        device.TrySend("new"u8);
        Assert.Equal("new", Encoding.ASCII.GetString(card.Fill(0, 64)));
    }

    internal static VirtioCard Disk(out MemoryBackend medium, VirtioFunctionOptions? options = null)
    {
        medium = new MemoryBackend(1 << 20);
        var device = new VirtioBlkDevice("disk", medium, "serial", queueCount: 2);
        using (var user = new VirtioBlkUser(device))
        {
            for (var sector = 0; sector < 8; sector++)
                Assert.Equal(0, user.Write((ulong)sector, Sector(medium, sector)));
        }

        return new VirtioCard(device, options);
    }

    internal static byte[] Sector(MemoryBackend _, int sector)
    {
        var bytes = new byte[512];
        new Random(sector).NextBytes(bytes);
        return bytes;
    }

    /// <summary>A whole read request of one sector.</summary>
    internal static DriverBuffer[] Header(VirtioCard card, int queue, ulong sector)
    {
        var at = 0x18000UL + ((ulong)queue * 0x1000);
        Span<byte> header = stackalloc byte[16];
        header.Clear();
        BinaryPrimitives.WriteUInt64LittleEndian(header[8..], sector);
        card.Slot.Memory.Write(at, header);
        card.Slot.Memory.Write(at + 0x800, [0xFF]);
        return
        [
            new DriverBuffer(new Iova(FunctionSlot.MemoryAddress + at), 16, false),
            new DriverBuffer(new Iova(FunctionSlot.MemoryAddress + at + 0x200), 512, true),
            new DriverBuffer(new Iova(FunctionSlot.MemoryAddress + at + 0x800), 1, true),
        ];
    }

    internal static byte ReadSector(VirtioCard card, int queue, ulong sector, out byte[] bytes)
    {
        card.Offer(queue, Header(card, queue, sector));
        Assert.Equal(513u, card.Await(queue));
        bytes = new byte[512];
        var at = 0x18000UL + ((ulong)queue * 0x1000);
        card.Slot.Memory.Read(at + 0x200, bytes);
        Span<byte> status = stackalloc byte[1];
        card.Slot.Memory.Read(at + 0x800, status);
        return status[0];
    }

    private static uint ReadWindow(VirtioCard card, int window, byte bar, uint offset, uint length)
    {
        Aim(card, window, bar, offset, length);
        Span<byte> data = stackalloc byte[4];
        card.Function.ReadConfig(window + 16, data);
        return BinaryPrimitives.ReadUInt32LittleEndian(data);
    }

    private static void WriteWindow(VirtioCard card, int window, byte bar, uint offset, uint length, uint value)
    {
        Aim(card, window, bar, offset, length);
        Span<byte> data = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(data, value);
        card.Function.WriteConfig(window + 16, data);
    }

    private static void Aim(VirtioCard card, int window, byte bar, uint offset, uint length)
    {
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, offset);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[4..], length);
        card.Function.WriteConfig(window + 4, [bar]);
        card.Function.WriteConfig(window + 8, bytes);
    }

    private sealed class Reader : IConsolePeer
    {
        private readonly StringBuilder _text = new();
        private int _couldSend;

        internal volatile int Room = int.MaxValue;

        internal int CouldSend => Volatile.Read(ref _couldSend);

        internal string Text
        {
            get
            {
                lock (_text)
                    return _text.ToString();
            }
        }

        public int Receive(ReadOnlySpan<byte> bytes)
        {
            var taken = Math.Min(bytes.Length, Room);
            lock (_text)
                _text.Append(Encoding.ASCII.GetString(bytes[..taken]));
            return taken;
        }

        public void CanSend() => Interlocked.Increment(ref _couldSend);

        internal Action? OnDrop { get; set; }

        public void DropUnsent() => OnDrop?.Invoke();
    }

    /// <summary>An entropy source's like, whose configuration changes by itself.</summary>
    private sealed class ChangingDevice : VirtioDevice
    {
        private int _value;

        internal ChangingDevice()
            : base("changing", 1, 16) => CreateQueues(static _ => new Nothing());

        public override uint DeviceId => 42;

        public override VirtioFeatures DeviceFeatures => VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1);

        public override int ConfigSize => 4;

        internal void Change(int value) => ChangeConfig(() => _value = value);

        protected override void ReadConfig(int offset, Span<byte> destination, VirtioFeatures? driverFeatures) =>
            BitConverter.GetBytes(_value).AsSpan(offset, destination.Length).CopyTo(destination);

        protected override bool TryWriteConfig(int offset, ReadOnlySpan<byte> source, VirtioFeatures? driverFeatures, out Fault fault) =>
            Refuse(Errno.EROFS, "nothing here is the driver's", out fault);

        protected override void OnBeginUse()
        {
        }

        private sealed class Nothing : IQueueProcessor
        {
            public (ulong Requests, ulong Bytes, ulong Errors) Counters => default;

            public void Start(DeviceRing ring, VirtioFeatures features)
            {
            }

            public bool Process(out Fault fault)
            {
                fault = Fault.None;
                return false;
            }

            public void Drain()
            {
            }

            public void Dispose()
            {
            }
        }
    }
}
