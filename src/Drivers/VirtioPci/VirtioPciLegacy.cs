using System.Buffers.Binary;
using System.Diagnostics;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Virtio;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Virtio.VirtioLegacyConfig;

namespace Virtbus.Drivers.VirtioPci;

/// <summary>
/// A device behind the ports from before version 1.0 (VIRTIO 1.3, 4.1.4.10): 32 features, no FEATURES_OK, no generation of the configuration, rings in one
/// piece at a page number, of the device's size. Its configuration is in the byte order of the machine, here little endian.
/// </summary>
internal sealed class VirtioPciLegacy : VirtioPciTransport
{
    private const ushort LastTransitionalId = 0x103F;
    private const int MostQueues = 1024;
    private const int MaxConfigReads = 100;
    private static readonly TimeSpan ResetPatience = TimeSpan.FromSeconds(2);
    private readonly PciRegion _ports;
    private uint _features;

    private VirtioPciLegacy(PciDevice device, PciRegion ports)
        : base(device, null)
    {
        _ports = ports;
        DeviceFeatures = new VirtioFeatures(Read32(VIRTIO_PCI_HOST_FEATURES));
    }

    public override uint VirtioType => Device.SubsystemId;

    public override VirtioFeatures DeviceFeatures { get; }

    public override VirtioFeatures TransportFeatures => VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_EVENT_IDX, VIRTIO_F_ANY_LAYOUT);

    public override bool IsLegacy => true;

    public override byte Status => Read8(VIRTIO_PCI_STATUS);

    // There is no register for it: a queue that is none has size 0.
    protected override int QueueCount => MostQueues;

    protected override uint UsedAlignment => RingAlignment;

    private int ConfigOffset => VirtioLegacyConfig.ConfigOffset(isMsixEnabled: Device.Vectors is [{ Kind: PciInterruptKinds.MsiX }, ..]);

    /// <summary>Finds the ports of a transitional function.</summary>
    internal static bool TryOpen(PciDevice device, out VirtioPciLegacy? transport)
    {
        transport = null;
        // Ids from 0x1040 on, and revisions above 0, are no old driver's.
        if (device.DeviceId > LastTransitionalId || device.Revision != 0)
            return false;
        var ports = device.GetRegion(0);
        if (ports.Bar.Kind != PciBarKind.Io || ports.Bar.Size < HeaderSize + VectorBytes)
            return false;
        transport = new VirtioPciLegacy(device, ports);
        return true;
    }

    public override bool TrySetStatus(byte status, out Fault fault)
    {
        lock (Turn)
        {
            var before = Status;
            if (before == Gone)
                return Lost(out fault);
            _ports.Write(VIRTIO_PCI_STATUS, [(byte)(status & KnownStatus)]);
            fault = Fault.None;
            return true;
        }
    }

    public override bool TrySettleFeatures(VirtioFeatures features, out Fault fault)
    {
        lock (Turn)
        {
            _features = features.Word(0);
            Write32(VIRTIO_PCI_GUEST_FEATURES, _features);
            return Status != Gone ? None(out fault) : Lost(out fault);
        }
    }

    // There is no generation: what is read twice alike is of one moment.
    public override bool TryReadConfig(int offset, Span<byte> destination, out Fault fault)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(offset);
        if ((ulong)(ConfigOffset + offset) + (ulong)destination.Length > _ports.Bar.Size)
        {
            fault = new Fault(Errno.EINVAL, "the device's configuration ends before that field");
            return false;
        }

        Span<byte> again = stackalloc byte[destination.Length];
        _ports.Read((ulong)(ConfigOffset + offset), destination);
        for (var i = 0; i < MaxConfigReads; i++)
        {
            _ports.Read((ulong)(ConfigOffset + offset), again);
            if (again.SequenceEqual(destination))
                return Status != Gone ? None(out fault) : Lost(out fault);
            again.CopyTo(destination);
        }

        fault = new Fault(Errno.EAGAIN, "the device changes its configuration without end");
        return false;
    }

    public override void WriteConfig(int offset, ReadOnlySpan<byte> source) => _ports.Write((ulong)(ConfigOffset + offset), source);

    protected override bool TryResetDevice(out Fault fault)
    {
        _ports.Write(VIRTIO_PCI_STATUS, [0]);
        var start = Stopwatch.GetTimestamp();
        var spin = default(SpinWait);
        // A device that was taken at its word at once is reset; the read flushes the write, and tells of one that is gone.
        do
        {
            switch (Status)
            {
                case 0:
                    return None(out fault);
                case Gone:
                    return Lost(out fault);
            }

            spin.SpinOnce();
        }
        while (Stopwatch.GetElapsedTime(start) < ResetPatience);
        fault = new Fault(Errno.ETIMEDOUT, "the device does not come out of its reset");
        return false;
    }

    protected override byte TakeInterrupts() => Read8(VIRTIO_PCI_ISR);

    protected override bool TrySetConfigVector(ushort vector)
    {
        Write16(VIRTIO_MSI_CONFIG_VECTOR, vector);
        return Read16(VIRTIO_MSI_CONFIG_VECTOR) == vector;
    }

    protected override int LookAt(int queue)
    {
        Write16(VIRTIO_PCI_QUEUE_SEL, (ushort)queue);
        var size = Read16(VIRTIO_PCI_QUEUE_NUM);
        if (size == 0)
            throw new VirtbusException(Errno.ENOENT, $"Device {Device.Name} has no virtio queue {queue}, which its driver needs.");
        if (Read32(VIRTIO_PCI_QUEUE_PFN) != 0)
            throw new VirtbusException(Errno.EINVAL, $"Device {Device.Name} has its virtio queue {queue} in use right after a reset.");
        return size;
    }

    protected override bool TryPlace(int queue, in RingLayout layout, ushort vector)
    {
        var page = layout.DescriptorArea.Value >> VIRTIO_PCI_QUEUE_ADDR_SHIFT;
        if (page > uint.MaxValue)
            throw new VirtbusException(Errno.ENOSPC, $"Device {Device.Name} is a legacy one, and the memory of its queue {queue} lies beyond the 44 bits of address that those have.");
        Write16(VIRTIO_PCI_QUEUE_SEL, (ushort)queue);
        if (Device.Vectors is [{ Kind: PciInterruptKinds.MsiX }, ..])
        {
            Write16(VIRTIO_MSI_QUEUE_VECTOR, vector);
            if (Read16(VIRTIO_MSI_QUEUE_VECTOR) != vector)
                return false;
        }

        Write32(VIRTIO_PCI_QUEUE_PFN, (uint)page);
        return true;
    }

    protected override void Withdraw(int queue)
    {
        Write16(VIRTIO_PCI_QUEUE_SEL, (ushort)queue);
        Write32(VIRTIO_PCI_QUEUE_PFN, 0);
    }

    // The page number has done it.
    protected override void Enable(int queue)
    {
    }

    protected override void Notify(VirtioQueue queue) => Write16(VIRTIO_PCI_QUEUE_NOTIFY, (ushort)queue.Index);

    private static bool None(out Fault fault)
    {
        fault = Fault.None;
        return true;
    }

    private static bool Lost(out Fault fault)
    {
        fault = new Fault(Errno.ENODEV, "the device is gone");
        return false;
    }

    private byte Read8(ulong offset)
    {
        Span<byte> value = stackalloc byte[1];
        _ports.Read(offset, value);
        return value[0];
    }

    private ushort Read16(ulong offset)
    {
        Span<byte> value = stackalloc byte[2];
        _ports.Read(offset, value);
        return BinaryPrimitives.ReadUInt16LittleEndian(value);
    }

    private uint Read32(ulong offset) => _ports.Read32(offset);

    private void Write16(ulong offset, ushort value)
    {
        Span<byte> bytes = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, value);
        _ports.Write(offset, bytes);
    }

    private void Write32(ulong offset, uint value) => _ports.Write32(offset, value);
}
