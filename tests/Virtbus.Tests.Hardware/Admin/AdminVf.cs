using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Pci;
using Virtbus.Tests.Hardware.Virtio;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Hardware.Admin;

/// <summary>A virtual function in a slot of its own, and drivers of it: a modern one, and the ring of a legacy one.</summary>
internal sealed class AdminVf : IDisposable
{
    private const ulong ModernRing = 0x10000;
    private const ulong Data = 0x18000;

    internal AdminVf(PciFunction function)
    {
        Function = function;
        function.Plug(Slot);
        function.WriteConfig(PciHeader.PCI_COMMAND, [PciCommand.PCI_COMMAND_MASTER, 0]);
        Slot.Dma.IsBusMaster = true;
        Registers = new VirtioPciAccess(function);
    }

    internal PciFunction Function { get; }

    internal FunctionSlot Slot { get; } = new();

    internal VirtioPciAccess Registers { get; }

    internal VirtioRegisterTransport Driver => field ??= new VirtioRegisterTransport(Registers);

    internal SplitDriverRing? Ring { get; private set; }

    /// <summary>Where in the slot's memory the index of the modern ring's used buffers is.</summary>
    internal ulong UsedIndexAt => Ring!.Layout.DeviceArea.Value - FunctionSlot.MemoryAddress + 2;

    public void Dispose()
    {
        Function.Unplug();
        Slot.Dispose();
    }

    internal static byte[] Sector(int sector)
    {
        var bytes = new byte[512];
        new Random(sector).NextBytes(bytes);
        return bytes;
    }

    internal void EnableMsix(bool isOn = true)
    {
        var capability = Function.ConfigLayout.FindCapability(PciCapabilityId.PCI_CAP_ID_MSIX);
        Span<byte> entry = stackalloc byte[16];
        entry.Clear();
        for (var vector = 0; isOn && vector < 3; vector++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(entry, 0xFEE00000);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[8..], 0xA0 + (uint)vector);
            Function.WriteBar(1, (ulong)vector * 16, entry);
        }

        Function.WriteConfig(capability + PciMsix.PCI_MSIX_FLAGS, [0, isOn ? (byte)0x80 : (byte)0]);
    }

    /// <summary>As <see cref="Start"/>, with memory that is reached by messages, none of which is answered until it is released.</summary>
    internal HeldMemory StartHeld()
    {
        var held = new HeldMemory(Slot);
        Slot.Unmap();
        Slot.Remap(held);
        Start();
        held.Hold();
        return held;
    }

    /// <summary>Gives the device a buffer of 16 bytes to fill.</summary>
    internal void Ask()
    {
        Ring!.Add([new(new(FunctionSlot.MemoryAddress + Data), 16, true)]);
        Ring.Publish();
        Registers.Notify(0);
    }

    /// <summary>Brings the device up with queue 0 in the slot's memory.</summary>
    internal void Start(ushort vector = VirtioCommonConfig.VIRTIO_MSI_NO_VECTOR)
    {
        Deadline.Until(() => Driver.TryReset(out _), "the end of the reset");
        Assert.True(Driver.TrySetStatus(ACKNOWLEDGE, out _));
        Assert.True(Driver.TrySetStatus(ACKNOWLEDGE | DRIVER, out _));
        var features = Driver.DeviceFeatures & ~VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_RING_PACKED, VirtioFeatures.VIRTIO_F_IN_ORDER, VirtioFeatures.VIRTIO_F_EVENT_IDX);
        Assert.True(Driver.TrySetDriverFeatures(features, out var fault), fault.Message);
        Assert.True(Driver.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK, out fault), fault.Message);
        Driver.Select(0);
        Driver.TrySetQueueVector(vector);
        Slot.Memory.Write(ModernRing, new byte[0x1000]);
        Ring = new SplitDriverRing(Slot.Memory, new Iova(FunctionSlot.MemoryAddress), ModernRing, 16, false, false);
        Driver.SetQueueSize(16);
        Driver.SetQueueAddress(Ring.Layout.DescriptorArea, Ring.Layout.DriverArea, Ring.Layout.DeviceArea);
        Assert.True(Driver.TryEnable());
        Assert.True(Driver.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK, out fault), fault.Message);
    }

    /// <summary>Asks for a sector by the modern ring.</summary>
    internal void OfferSector(ulong sector, bool isNotified = true)
    {
        Assert.True(Ring!.Add(Request(sector)) >= 0);
        Ring.Publish();
        if (isNotified)
            Registers.Notify(0);
    }

    internal byte[] AwaitSector()
    {
        Deadline.Until(() => Ring!.TryTakeUsed(out _, out _, out _), "a used buffer");
        return Content();
    }

    internal bool HasUsed() => Ring!.TryTakeUsed(out _, out _, out _);

    internal byte[] Content()
    {
        var bytes = new byte[512];
        Slot.Memory.Read(Data + 0x200, bytes);
        return bytes;
    }

    /// <summary>Asks for a sector by the ring of a legacy driver, at the slot's first page: 1024 descriptors, the used ring on a page of its own.</summary>
    internal ushort OfferLegacySector(ulong sector)
    {
        var memory = Slot.Memory;
        Span<byte> index = stackalloc byte[2];
        memory.Read(0x4002, index);
        var next = BinaryPrimitives.ReadUInt16LittleEndian(index);
        var buffers = Request(sector);
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
        return (ushort)(next + 1);
    }

    internal byte[] AwaitLegacySector(ushort used)
    {
        Deadline.Until(
            () =>
            {
                Span<byte> index = stackalloc byte[2];
                Slot.Memory.Read(0x5002, index);
                return BinaryPrimitives.ReadUInt16LittleEndian(index) == used;
            },
            "a used buffer");
        return Content();
    }

    private DriverBuffer[] Request(ulong sector)
    {
        Span<byte> header = stackalloc byte[16];
        header.Clear();
        BinaryPrimitives.WriteUInt64LittleEndian(header[8..], sector);
        Slot.Memory.Write(Data, header);
        Slot.Memory.Write(Data + 0x200, new byte[512]);
        return
        [
            new DriverBuffer(new Iova(FunctionSlot.MemoryAddress + Data), 16, false),
            new DriverBuffer(new Iova(FunctionSlot.MemoryAddress + Data + 0x200), 512, true),
            new DriverBuffer(new Iova(FunctionSlot.MemoryAddress + Data + 0x800), 1, true),
        ];
    }
}
