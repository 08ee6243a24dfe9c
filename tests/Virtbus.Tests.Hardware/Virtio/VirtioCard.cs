using System.Buffers.Binary;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Memory;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Hardware.Virtio;

/// <summary>A virtio function in a slot, and a driver of it in the slot's memory: its rings, a request at a time, the way of its interrupts.</summary>
internal sealed class VirtioCard : IDisposable
{
    internal const byte Running = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
    internal const int RingSize = 16;
    private const ulong RingBytes = 0x1000;
    private const ulong Data = 0x10000;

    internal VirtioCard(VirtioDevice device, VirtioFunctionOptions? options = null, bool isPlugged = true)
    {
        Function = new VirtioFunction(device, options);
        Registers = new VirtioPciAccess(Function);
        if (isPlugged)
            Function.Plug(Slot);
        SetCommand(PciCommand.PCI_COMMAND_IO | PciCommand.PCI_COMMAND_MEMORY | PciCommand.PCI_COMMAND_MASTER);
    }

    internal FunctionSlot Slot { get; } = new();

    internal VirtioFunction Function { get; }

    internal VirtioPciAccess Registers { get; }

    internal VirtioRegisterTransport Driver => field ??= new VirtioRegisterTransport(Registers);

    internal List<SplitDriverRing> Rings { get; } = [];

    internal VirtioFeatures Features { get; private set; }

    /// <summary>Called before it goes: what its end would wait for ends there.</summary>
    internal Action? Leaving { get; set; }

    public void Dispose()
    {
        Leaving?.Invoke();
        Function.Dispose();
        Slot.Dispose();
    }

    internal void SetCommand(ushort bits)
    {
        Span<byte> value = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(value, bits);
        Function.WriteConfig(PciHeader.PCI_COMMAND, value);
        Slot.Dma.IsBusMaster = (bits & PciCommand.PCI_COMMAND_MASTER) != 0;
    }

    /// <summary>Gives vector n the message 0xA0 + n, unmasks it, and enables MSI-X.</summary>
    internal void EnableMsix(int vectors)
    {
        var capability = Function.ConfigLayout.FindCapability(PciCapabilityId.PCI_CAP_ID_MSIX);
        Span<byte> entry = stackalloc byte[16];
        entry.Clear();
        for (var vector = 0; vector < vectors; vector++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(entry, 0xFEE00000);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[8..], 0xA0 + (uint)vector);
            Function.WriteBar(1, (ulong)vector * 16, entry);
        }

        Function.WriteConfig(capability + PciMsix.PCI_MSIX_FLAGS, [0, 0x80]);
    }

    /// <summary>Brings the device up with rings in the slot's memory. All features are taken but for those left out.</summary>
    internal void Start(VirtioFeatures without = default, Func<int, ushort>? vectors = null)
    {
        Deadline.Until(() => Driver.TryReset(out _), "the end of the reset");
        Assert.True(Driver.TrySetStatus(ACKNOWLEDGE, out _));
        Assert.True(Driver.TrySetStatus(ACKNOWLEDGE | DRIVER, out _));
        Features = Driver.DeviceFeatures & ~without & ~VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_RING_PACKED, VirtioFeatures.VIRTIO_F_IN_ORDER);
        Assert.True(Driver.TrySetDriverFeatures(Features, out var fault), fault.Message);
        Assert.True(Driver.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK, out fault), fault.Message);
        Rings.Clear();
        for (var queue = 0; queue < Driver.QueueCount; queue++)
        {
            Driver.Select(queue);
            if (vectors is not null)
                Assert.True(Driver.TrySetQueueVector(vectors(queue)));
            Rings.Add(SetUp(queue));
            Assert.True(Driver.TryEnable());
        }

        Assert.True(Driver.TrySetStatus(Running, out fault), fault.Message);
    }

    /// <summary>Lays the ring of the selected queue out.</summary>
    internal SplitDriverRing SetUp(int queue)
    {
        var offset = (ulong)queue * RingBytes;
        Slot.Memory.Write(offset, new byte[RingBytes]);
        var ring = new SplitDriverRing(
            Slot.Memory, new Iova(FunctionSlot.MemoryAddress), offset, RingSize, Features.Has(VirtioFeatures.VIRTIO_F_EVENT_IDX), Features.Has(VirtioFeatures.VIRTIO_F_INDIRECT_DESC));
        Driver.SetQueueSize(RingSize);
        Driver.SetQueueAddress(ring.Layout.DescriptorArea, ring.Layout.DriverArea, ring.Layout.DeviceArea);
        return ring;
    }

    /// <summary>Has a buffer filled by the device, and waits for it.</summary>
    internal byte[] Fill(int queue, int length)
    {
        Offer(queue, length);
        var written = Await(queue);
        var bytes = new byte[written];
        Slot.Memory.Read(Data, bytes);
        return bytes;
    }

    /// <summary>Makes a buffer for the device available.</summary>
    internal void Offer(int queue, int length) => Offer(queue, new DriverBuffer(new Iova(FunctionSlot.MemoryAddress + Data), (uint)length, true));

    /// <summary>Gives the device bytes, and waits until it hands them back.</summary>
    internal void Give(int queue, ReadOnlySpan<byte> bytes)
    {
        Slot.Memory.Write(Data + 0x4000, bytes);
        Offer(queue, new DriverBuffer(new Iova(FunctionSlot.MemoryAddress + Data + 0x4000), (uint)bytes.Length, false));
        Await(queue);
    }

    internal void Offer(int queue, params ReadOnlySpan<DriverBuffer> buffers)
    {
        Assert.True(Rings[queue].Add(buffers) >= 0);
        Rings[queue].RequestCalls(true);
        if (Rings[queue].Publish())
            Registers.Notify(queue);
    }

    internal uint Await(int queue)
    {
        var written = 0u;
        Deadline.Until(() => Rings[queue].TryTakeUsed(out _, out written, out _), "a used buffer");
        return written;
    }

    internal ushort Config16(int offset)
    {
        Span<byte> value = stackalloc byte[2];
        Function.ReadConfig(offset, value);
        return BinaryPrimitives.ReadUInt16LittleEndian(value);
    }

    internal byte[] Bar(int bar, ulong offset, int length)
    {
        var bytes = new byte[length];
        Function.ReadBar(bar, offset, bytes);
        return bytes;
    }
}
