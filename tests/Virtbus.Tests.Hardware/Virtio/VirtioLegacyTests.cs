using System.Buffers.Binary;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Memory;
using Virtbus.Models.VirtioRng;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Hardware.Virtio;

/// <summary>A transitional function under a driver from before version 1.0: ports in BAR 0 and a ring at a page number.</summary>
public sealed class VirtioLegacyTests
{
    private const int HostFeatures = 0, GuestFeatures = 4, Page = 8, Size = 12, Select = 14, Notify = 16, Status = 18, Isr = 19, ConfigVector = 20, QueueVector = 22;
    private const uint FirstPage = (uint)(FunctionSlot.MemoryAddress >> 12);

    [Fact]
    public void Ids_are_those_that_old_drivers_know()
    {
        using var card = Old();
        Assert.Equal(0x1001, card.Config16(PciHeader.PCI_DEVICE_ID));
        Assert.Equal(2, card.Config16(PciHeader.PCI_SUBSYSTEM_ID));
        Assert.Equal(0, card.Config16(PciHeader.PCI_REVISION_ID) & 0xFF);
        Assert.Equal((PciBarKind.Io, 128ul), (card.Function.GetBar(0).Kind, card.Function.GetBar(0).Size));
        using var rng = new VirtioCard(new VirtioRngDevice("rng"), new VirtioFunctionOptions { IsTransitional = true });
        Assert.Equal((0x1005, 4), (rng.Config16(PciHeader.PCI_DEVICE_ID), rng.Config16(PciHeader.PCI_SUBSYSTEM_ID)));
    }

    [Fact]
    public void Device_type_that_came_later_has_no_transitional_form()
    {
        var error = Assert.Throws<VirtbusException>(() => new VirtioFunction(new LateDevice(), new VirtioFunctionOptions { IsTransitional = true }));
        Assert.Equal(Errno.EINVAL, error.Errno);
    }

    [Fact]
    public void Old_driver_reads_sectors_by_the_line()
    {
        using var card = Old();
        Start(card);
        Assert.Equal(Sector(card, 3), ReadSector(card, 3));
        Deadline.Until(() => card.Slot.Line, "the line");
        Assert.Equal(1u, In(card, Isr, 1));
        Assert.False(card.Slot.Line);
    }

    [Fact]
    public void Queue_is_used_before_the_driver_says_that_it_is_ready()
    {
        using var card = Old();
        Start(card, isReady: false);
        Assert.Equal(Sector(card, 4), ReadSector(card, 4));
        Assert.Equal(ACKNOWLEDGE | DRIVER, (byte)In(card, Status, 1));
    }

    [Fact]
    public void Configuration_moves_when_MSI_X_is_enabled_and_vectors_are_there()
    {
        using var card = Old();
        Assert.Equal(2048u, In(card, 20, 4));
        card.EnableMsix(2);
        Assert.Equal(2048u, In(card, 24, 4));
        Assert.Equal(0xFFFFu, In(card, ConfigVector, 2));
        Out(card, ConfigVector, 2, 0);
        Assert.Equal(0u, In(card, ConfigVector, 2));
        Out(card, QueueVector, 2, 99);
        Assert.Equal(0xFFFFu, In(card, QueueVector, 2));
        Out(card, QueueVector, 2, 1);
        Assert.Equal(1u, In(card, QueueVector, 2));
        Start(card, vector: 1);
        Assert.Equal(Sector(card, 1), ReadSector(card, 1));
        Deadline.Until(() => card.Slot.Messages.Contains((0xFEE00000, 0xA1u)), "the message");
        // Any width, at any place: the upper half of the capacity, its first byte, and the header with it.
        Assert.Equal(0u, In(card, 28, 4));
        Assert.Equal(0x00u, In(card, 24, 1));
        Assert.Equal(0x08u, In(card, 25, 1));
        Assert.Equal(card.Bar(0, 20, 12)[4..], card.Bar(0, 24, 8));
    }

    [Fact]
    public void Page_0_stops_the_queue_and_another_one_starts_it_anew()
    {
        using var card = Old();
        Start(card);
        ReadSector(card, 1);
        Out(card, Page, 4, 0);
        Assert.Equal(0u, In(card, Page, 4));
        Layout(card);
        Out(card, Page, 4, FirstPage);
        Assert.Equal(Sector(card, 2), ReadSector(card, 2));
        Out(card, Status, 1, 0);
        Assert.Equal((0u, 0u, 0u), (In(card, Page, 4), In(card, Status, 1), In(card, GuestFeatures, 4)));
        Start(card);
        Assert.Equal(Sector(card, 2), ReadSector(card, 2));
    }

    [Fact]
    public void Features_are_32_bits_and_queues_that_are_not_there_have_size_0()
    {
        using var card = Old();
        var features = In(card, HostFeatures, 4);
        Assert.Equal(1u << 27, features & (1u << 27));
        Assert.Equal((uint)card.Function.Device.DeviceFeatures.Low, features & ~(1u << 27));
        Out(card, GuestFeatures, 4, uint.MaxValue);
        Assert.Equal(features, In(card, GuestFeatures, 4));
        Out(card, Select, 2, 7);
        Assert.Equal((0u, 0u), (In(card, Size, 2), In(card, Page, 4)));
        Out(card, Page, 4, 5);
        Assert.Equal(0u, In(card, Page, 4));
    }

    [Fact]
    public void Modern_driver_of_a_transitional_function_is_served_as_well()
    {
        using var card = Old();
        card.Start();
        VirtioFunctionTests.ReadSector(card, 0, 6, out var bytes);
        Assert.Equal(Sector(card, 6), bytes);
    }

    [Fact]
    public void Modern_function_has_no_ports()
    {
        using var card = VirtioFunctionTests.Disk(out _);
        Assert.Equal(PciBarKind.None, card.Function.GetBar(0).Kind);
    }

    private static VirtioCard Old() => VirtioFunctionTests.Disk(out _, new VirtioFunctionOptions { IsTransitional = true });

    private static byte[] Sector(VirtioCard _, int sector) => VirtioFunctionTests.Sector(null!, sector);

    private static void Start(VirtioCard card, bool isReady = true, ushort? vector = null)
    {
        Out(card, Status, 1, 0);
        Out(card, Status, 1, ACKNOWLEDGE);
        Out(card, Status, 1, ACKNOWLEDGE | DRIVER);
        Out(card, GuestFeatures, 4, In(card, HostFeatures, 4) & ~(1u << VirtioFeatures.VIRTIO_F_EVENT_IDX));
        Out(card, Select, 2, 0);
        Layout(card);
        Out(card, Page, 4, FirstPage);
        if (vector is { } wanted)
            Out(card, QueueVector, 2, wanted);
        if (isReady)
            Out(card, Status, 1, ACKNOWLEDGE | DRIVER | DRIVER_OK);
    }

    // The ring of the device's size, which an old driver can't change: 1024 descriptors, so 16 KiB, the available ring, and the used ring on the next page.
    private static void Layout(VirtioCard card)
    {
        Assert.Equal(1024u, In(card, Size, 2));
        card.Slot.Memory.Write(0, new byte[0x8000]);
    }

    private static byte[] ReadSector(VirtioCard card, ulong sector)
    {
        var memory = card.Slot.Memory;
        Span<byte> index = stackalloc byte[2];
        memory.Read(0x4000 + 2, index);
        var next = BinaryPrimitives.ReadUInt16LittleEndian(index);
        var buffers = VirtioFunctionTests.Header(card, 0, sector);
        Span<byte> descriptor = stackalloc byte[16];
        for (var i = 0; i < 3; i++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(descriptor, buffers[i].Address.Value);
            BinaryPrimitives.WriteUInt32LittleEndian(descriptor[8..], buffers[i].Length);
            BinaryPrimitives.WriteUInt16LittleEndian(descriptor[12..], (ushort)((i < 2 ? 1 : 0) | (i > 0 ? 2 : 0)));
            BinaryPrimitives.WriteUInt16LittleEndian(descriptor[14..], (ushort)(i + 1));
            memory.Write((ulong)i * 16, descriptor);
        }

        memory.Write(0x4000 + 4 + (2 * (ulong)(next % 1024)), [0, 0]);
        BinaryPrimitives.WriteUInt16LittleEndian(index, (ushort)(next + 1));
        memory.Write(0x4002, index);
        Out(card, Notify, 2, 0);
        Deadline.Until(
            () =>
            {
                // Available ring of 6 + 2048 bytes at 0x4000; the used ring on the page behind.
                Span<byte> used = stackalloc byte[2];
                memory.Read(0x5002, used);
                return BinaryPrimitives.ReadUInt16LittleEndian(used) == (ushort)(next + 1);
            },
            "a used buffer");
        var bytes = new byte[512];
        memory.Read(0x18200, bytes);
        return bytes;
    }

    private static uint In(VirtioCard card, int port, int size)
    {
        Span<byte> bytes = stackalloc byte[4];
        bytes.Clear();
        card.Function.ReadBar(0, (ulong)port, bytes[..size]);
        return BinaryPrimitives.ReadUInt32LittleEndian(bytes);
    }

    private static void Out(VirtioCard card, int port, int size, uint value)
    {
        Span<byte> bytes = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        card.Function.WriteBar(0, (ulong)port, bytes[..size]);
    }

    /// <summary>A device of a type that version 1.0 did not know.</summary>
    private sealed class LateDevice : VirtioDevice
    {
        internal LateDevice()
            : base("late", 1, 16)
        {
        }

        public override uint DeviceId => VirtioDeviceId.VIRTIO_ID_FS;

        public override VirtioFeatures DeviceFeatures => default;

        public override int ConfigSize => 0;

        protected override void ReadConfig(int offset, Span<byte> destination, VirtioFeatures? driverFeatures)
        {
        }

        protected override bool TryWriteConfig(int offset, ReadOnlySpan<byte> source, VirtioFeatures? driverFeatures, out Fault fault) => Done(out fault);

        protected override void OnBeginUse()
        {
        }
    }
}
