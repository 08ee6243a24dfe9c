using System.Buffers.Binary;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Virtio;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Virtio.VirtioFeatures;

namespace Virtbus.Drivers.VirtioPci;

/// <summary>A device behind the registers of version 1.0 and later (VIRTIO 1.3, 4.1.4).</summary>
internal sealed class VirtioPciModern : VirtioPciTransport
{
    private const ushort FirstModernId = 0x1040;
    private const int MostQueues = 0x10000;
    // No driver of ours takes a feature above 63, and SPDK's target ends at an access to a third word.
    private const int FeatureWords = 2;

    // A field that was added, and the feature that needs it.
    private static readonly (int Feature, int End, string Name)[] LateFields =
    [
        (VIRTIO_F_NOTIF_CONFIG_DATA, VirtioCommonConfig.queue_notify_data + 2, nameof(VIRTIO_F_NOTIF_CONFIG_DATA)),
        (VIRTIO_F_RING_RESET, VirtioCommonConfig.queue_reset + 2, nameof(VIRTIO_F_RING_RESET)),
        (VIRTIO_F_ADMIN_VQ, VirtioCommonConfig.admin_queue_num + 2, nameof(VIRTIO_F_ADMIN_VQ)),
    ];

    private readonly VirtioPciLayout _layout;
    private readonly VirtioPciRegisters _registers;
    private readonly VirtioRegisterTransport _transport;
    private readonly PciRegion _isr;
    private readonly PciRegion _notifications;
    private readonly ulong[] _notifyAt;
    private readonly ushort[] _notifyData;
    private bool _notifiesWithData;

    internal VirtioPciModern(PciDevice device, VirtioPciLayout layout, VirtioPciAdministration administration)
        : base(device, administration)
    {
        _layout = layout;
        _registers = new VirtioPciRegisters(device, layout);
        _transport = new VirtioRegisterTransport(_registers, FeatureWords) { ResetPatience = TimeSpan.FromSeconds(2) };
        // One more, for the administration queue, whose number may be far away.
        _notifyAt = new ulong[_transport.QueueCount + 1];
        _notifyData = new ushort[_transport.QueueCount + 1];
        _isr = device.GetRegion(layout.Isr.Bar);
        _notifications = device.GetRegion(layout.Notify.Bar);
    }

    public override uint VirtioType => Device.DeviceId < FirstModernId ? Device.SubsystemId : Device.DeviceId - (uint)FirstModernId;

    public override VirtioFeatures DeviceFeatures => _transport.DeviceFeatures;

    public override VirtioFeatures TransportFeatures => Of(
        VIRTIO_F_EVENT_IDX,
        VIRTIO_F_VERSION_1,
        VIRTIO_F_ACCESS_PLATFORM,
        VIRTIO_F_RING_PACKED,
        VIRTIO_F_IN_ORDER,
        VIRTIO_F_ORDER_PLATFORM,
        VIRTIO_F_SR_IOV,
        VIRTIO_F_NOTIFICATION_DATA,
        VIRTIO_F_NOTIF_CONFIG_DATA,
        VIRTIO_F_ADMIN_VQ);

    public override bool IsLegacy => false;

    public override byte Status => _transport.Status;

    protected override int QueueCount => _transport.QueueCount;

    protected override uint UsedAlignment => 4;

    public override bool TrySetStatus(byte status, out Fault fault)
    {
        lock (Turn)
        {
            if (_transport.Status == Gone)
                return Lost(out fault);
            if (!_transport.TrySetStatus(status, out fault))
                return false;
        }

        // It waits for the device.
        if ((status & VirtioStatus.DRIVER_OK) != 0)
            StartAdministration();
        return true;
    }

    public override bool TrySettleFeatures(VirtioFeatures features, out Fault fault)
    {
        foreach (var (feature, end, name) in LateFields)
        {
            if (features.Has(feature) && (ulong)end > _layout.Common.Length)
                return Refuse($"its common configuration has {_layout.Common.Length} bytes, and {name} needs a field that ends at {end}", out fault);
        }

        if (!features.Has(VIRTIO_F_VERSION_1))
            return Refuse("it has modern registers and does not offer VIRTIO_F_VERSION_1", out fault);
        if (Device.IsReal && !features.Has(VIRTIO_F_ACCESS_PLATFORM))
            return Refuse("it is real, and would pass the IOMMU by without VIRTIO_F_ACCESS_PLATFORM, which its driver does not take", out fault);
        lock (Turn)
        {
            _notifiesWithData = features.Has(VIRTIO_F_NOTIFICATION_DATA);
            return _transport.TrySetDriverFeatures(features, out fault) && _transport.TrySetStatus((byte)(_transport.Status | VirtioStatus.FEATURES_OK), out fault);
        }
    }

    public override bool TryReadConfig(int offset, Span<byte> destination, out Fault fault)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(offset);
        if ((ulong)offset + (ulong)destination.Length > _registers.ConfigSize)
        {
            fault = new Fault(Errno.EINVAL, "the device's configuration ends before that field");
            return false;
        }

        return _transport.TryReadConfig(offset, destination, out fault) && (_transport.Status != Gone || Lost(out fault));
    }

    public override void WriteConfig(int offset, ReadOnlySpan<byte> source) => _transport.WriteConfig(offset, source);

    // VIRTIO 1.4, 4.1.4.3: behind the other queues, and not beyond 65535.
    protected override int? FindAdminQueue(VirtioFeatures features)
    {
        if (!features.Has(VIRTIO_F_ADMIN_VQ))
            return null;
        var (first, count) = (_registers.ReadUInt16(VirtioCommonConfig.admin_queue_index), _registers.ReadUInt16(VirtioCommonConfig.admin_queue_num));
        return count > 0 && first >= QueueCount && first + count <= MostQueues
            ? first
            : throw new VirtbusException(Errno.EINVAL, $"Device {Device.Name} says that it has {count} administration queues from number {first} on, behind {QueueCount} others, which can't be.");
    }

    protected override bool TryResetDevice(out Fault fault) => _transport.TryReset(out fault);

    protected override byte TakeInterrupts()
    {
        Span<byte> value = stackalloc byte[1];
        _isr.Read(_layout.Isr.Offset, value);
        return value[0];
    }

    protected override bool TrySetConfigVector(ushort vector) => _transport.TrySetConfigVector(vector);

    protected override int LookAt(int queue)
    {
        _transport.Select(queue);
        var size = _transport.QueueSize;
        if (size == 0)
            throw new VirtbusException(Errno.ENOENT, $"Device {Device.Name} has no virtio queue {queue}, which its driver needs.");
        if (_transport.IsEnabled)
            throw new VirtbusException(Errno.EINVAL, $"Device {Device.Name} has its virtio queue {queue} enabled right after a reset.");
        var at = _transport.NotifyOffset * (ulong)_layout.Notify.Multiplier;
        var width = _notifiesWithData ? sizeof(uint) : sizeof(ushort);
        if (at + (ulong)width > _layout.Notify.Length || (_layout.Notify.Offset + at) % (ulong)width != 0)
            throw new VirtbusException(Errno.EINVAL, $"Device {Device.Name} wants the notifications of its virtio queue {queue} at {at}, outside of the {_layout.Notify.Length} bytes that it has for them, or not aligned to {width}.");
        _notifyAt[Slot(queue)] = _layout.Notify.Offset + at;
        _notifyData[Slot(queue)] = (ushort)queue;
        return size;
    }

    protected override bool TryPlace(int queue, in RingLayout layout, ushort vector)
    {
        _transport.Select(queue);
        _transport.SetQueueSize(layout.Size);
        _transport.SetQueueAddress(layout.DescriptorArea, layout.DriverArea, layout.DeviceArea);
        if (_transport.DriverFeatures.Has(VIRTIO_F_NOTIF_CONFIG_DATA))
            _notifyData[Slot(queue)] = _transport.NotifyData;
        return _transport.TrySetQueueVector(vector);
    }

    // It was not enabled, so the device knows nothing of it.
    protected override void Withdraw(int queue)
    {
    }

    protected override void Enable(int queue)
    {
        _transport.Select(queue);
        if (!_transport.TryEnable())
            throw new VirtbusException(Errno.EINVAL, $"Device {Device.Name} does not enable its virtio queue {queue}.");
    }

    protected override void Notify(VirtioQueue queue)
    {
        Span<byte> value = stackalloc byte[sizeof(uint)];
        var slot = Slot(queue.Index);
        BinaryPrimitives.WriteUInt32LittleEndian(value, _notifyData[slot] | ((uint)queue.NotificationPlace << 16));
        _notifications.Write(_notifyAt[slot], value[..(_notifiesWithData ? sizeof(uint) : sizeof(ushort))]);
    }

    private int Slot(int queue) => Math.Min(queue, _notifyAt.Length - 1);

    private static bool Lost(out Fault fault)
    {
        fault = new Fault(Errno.ENODEV, "the device is gone");
        return false;
    }

    private static bool Refuse(string message, out Fault fault)
    {
        fault = new Fault(Errno.EINVAL, message);
        return false;
    }
}
