using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Platform;
using static Virtbus.Virtio.VirtioCommonConfig;

namespace Virtbus.Virtio;

/// <summary>
/// A device behind registers, whatever bus they are on: struct virtio_pci_common_cfg at its standard offsets (VIRTIO 1.2, 4.1.4.3). Who has
/// the registers adds what is its own: notifications, memory, other registers, and says by <see cref="IVirtioRegisterHost"/> where vectors go.
/// </summary>
/// <remarks>
/// Accesses and <see cref="Reset"/> may come from any thread, one at a time: the selectors want that anyway. An access that stops a queue
/// returns when the queue's thread is done. <see cref="TryTakeFault"/> and <see cref="TakeConfigChange"/> may come from another thread.
/// </remarks>
public sealed partial class VirtioConfigRegisters
{
    private readonly VirtioDevice _device;
    private readonly IVirtioRegisterHost _host;
    private readonly VirtioFeatures _transport;
    private readonly Queue[] _queues;
    private uint _deviceFeatureSelect;
    private uint _driverFeatureSelect;
    private VirtioFeatures _driverFeatures;
    private ushort _configVector = VIRTIO_MSI_NO_VECTOR;
    private ushort _queueSelect;
    private byte _generation;
    private uint _seenGeneration;
    private volatile bool _configUntold;
    private volatile bool _owesInterrupts;

    /// <summary>Puts a device behind registers. Its callbacks and its queues' interrupts are theirs from then on.</summary>
    /// <param name="device">The device, which stays the caller's.</param>
    /// <param name="host">The side of the bus.</param>
    /// <param name="transport">Features of the bus's side, which are offered beside the device's and of which the device is not told.</param>
    public VirtioConfigRegisters(VirtioDevice device, IVirtioRegisterHost host, VirtioFeatures transport = default)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(host);
        _device = device;
        _host = host;
        _transport = transport & ~device.DeviceFeatures;
        _seenGeneration = device.ConfigGeneration;
        _generation = (byte)_seenGeneration;
        _queues = new Queue[device.QueueCount + device.AdminQueueCount];
        for (var i = 0; i < _queues.Length; i++)
        {
            var queue = _queues[i] = new Queue();
            device.SetQueueInterrupt(i, () => _host.RaiseQueue(queue.Vector));
        }
        device.SetQueueFaultCallback(OnFault);
        device.SetConfigCallback(OnConfigChange);
        device.SetResetCallback(_host.ResetEnding);
    }

    /// <summary>How many queues there are, without those for administration.</summary>
    public int QueueCount => _device.QueueCount;

    /// <summary>The queue that the driver selected; -1 when there is none of that number for it.</summary>
    public int SelectedQueue => _queueSelect < (HasAdminQueue ? _queues.Length : _device.QueueCount) ? _queueSelect : -1;

    /// <summary>What is offered: the device's features and those of the bus's side.</summary>
    public VirtioFeatures OfferedFeatures => _device.DeviceFeatures | _transport;

    /// <summary>What the driver has written of the features; settled once the status has FEATURES_OK.</summary>
    public VirtioFeatures DriverFeatures => _driverFeatures;

    /// <summary>The vector that tells of changes of the configuration; <see cref="VIRTIO_MSI_NO_VECTOR"/> for none.</summary>
    public ushort ConfigVector => Volatile.Read(ref _configVector);

    /// <summary>Reads all registers at once.</summary>
    /// <param name="destination">Where to; at least <see cref="Size"/> bytes.</param>
    public void Read(Span<byte> destination)
    {
        var r = destination[..VirtioCommonConfig.Size];
        r.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(r[device_feature_select..], _deviceFeatureSelect);
        BinaryPrimitives.WriteUInt32LittleEndian(r[device_feature..], OfferedFeatures.Word(_deviceFeatureSelect));
        BinaryPrimitives.WriteUInt32LittleEndian(r[driver_feature_select..], _driverFeatureSelect);
        BinaryPrimitives.WriteUInt32LittleEndian(r[driver_feature..], _driverFeatures.Word(_driverFeatureSelect));
        BinaryPrimitives.WriteUInt16LittleEndian(r[config_msix_vector..], _configVector);
        BinaryPrimitives.WriteUInt16LittleEndian(r[num_queues..], (ushort)_device.QueueCount);
        r[device_status] = _device.Status;
        r[config_generation] = Generation();
        BinaryPrimitives.WriteUInt16LittleEndian(r[queue_select..], _queueSelect);
        if (HasAdminQueue)
        {
            BinaryPrimitives.WriteUInt16LittleEndian(r[admin_queue_index..], (ushort)_device.QueueCount);
            BinaryPrimitives.WriteUInt16LittleEndian(r[admin_queue_num..], (ushort)_device.AdminQueueCount);
        }

        if (SelectedQueue < 0)
            return;
        var queue = _queues[_queueSelect];
        var isEnding = _device.IsQueueEnding(_queueSelect);
        BinaryPrimitives.WriteUInt16LittleEndian(r[queue_size..], SizeOf(queue));
        BinaryPrimitives.WriteUInt16LittleEndian(r[queue_msix_vector..], queue.Vector);
        BinaryPrimitives.WriteUInt16LittleEndian(r[queue_enable..], _device.IsQueueReady(_queueSelect) || isEnding ? (ushort)1 : (ushort)0);
        BinaryPrimitives.WriteUInt16LittleEndian(r[queue_notify_off..], _queueSelect);
        BinaryPrimitives.WriteUInt64LittleEndian(r[queue_desc..], queue.Descriptors);
        BinaryPrimitives.WriteUInt64LittleEndian(r[queue_driver..], queue.Driver);
        BinaryPrimitives.WriteUInt64LittleEndian(r[queue_device..], queue.Device);
        BinaryPrimitives.WriteUInt16LittleEndian(r[queue_notify_data..], _queueSelect);
        BinaryPrimitives.WriteUInt16LittleEndian(r[queue_reset..], isEnding ? (ushort)1 : (ushort)0);
    }

    /// <summary>Writes one register, or half of a 64-bit one; what is no register takes nothing.</summary>
    /// <param name="offset">Its byte offset.</param>
    /// <param name="size">Bytes: 1, 2, 4 or 8.</param>
    /// <param name="value">The value.</param>
    public void Write(int offset, int size, ulong value)
    {
        // Nothing of a suspended device changes but its status (VIRTIO 1.4, 3.4); of one that is being reset nothing would stay.
        if ((_device.IsSuspended || _device.IsResetting) && offset is not (device_status or device_feature_select or driver_feature_select or queue_select))
            return;
        switch (offset, size)
        {
            case (device_feature_select, 4):
                _deviceFeatureSelect = (uint)value;
                break;
            case (driver_feature_select, 4):
                _driverFeatureSelect = (uint)value;
                break;
            case (driver_feature, 4):
                if (VirtioStatusRules.Allows(_device.Status, VirtioStep.TakeFeatures, out _))
                    _driverFeatures = _driverFeatures.WithWord(_driverFeatureSelect, (uint)value);
                break;
            case (config_msix_vector, 2):
                Volatile.Write(ref _configVector, Vector((ushort)value));
                break;
            case (device_status, 1):
                SetStatus((byte)value);
                break;
            case (queue_select, 2):
                _queueSelect = (ushort)value;
                break;
            default:
                if (SelectedQueue >= 0)
                    Write(_queues[_queueSelect], offset, size, value);
                break;
        }
    }

    /// <summary>Reads the configuration space; bytes beyond its end are left as they are.</summary>
    /// <param name="offset">First byte in the space.</param>
    /// <param name="destination">Where to.</param>
    public void ReadConfig(int offset, Span<byte> destination)
    {
        var length = Math.Min(destination.Length, _device.ConfigSize - offset);
        if (length > 0)
            _device.TryGetConfig(offset, destination[..length], out _);
    }

    /// <summary>A queue's vector, whichever queue is selected; <see cref="VIRTIO_MSI_NO_VECTOR"/> for none.</summary>
    /// <param name="queue">Queue number.</param>
    public ushort VectorOf(int queue) => _queues[queue].Vector;

    /// <summary>What broke a queue, or kept it from being enabled; none after it was enabled or stopped.</summary>
    /// <param name="queue">Queue number.</param>
    public Fault FaultOf(int queue) => Volatile.Read(ref _queues[queue].Fault)?.Value ?? Fault.None;

    /// <summary>Takes a fault of a queue that the driver was not told of yet.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="errno">The fault's number.</param>
    /// <returns>Whether there was one.</returns>
    public bool TryTakeFault(out int queue, out Errno errno)
    {
        for (queue = 0; queue < _queues.Length; queue++)
        {
            if (Interlocked.Exchange(ref _queues[queue].FaultUntold, 0) == 0)
                continue;
            errno = Volatile.Read(ref _queues[queue].Fault)?.Value.Errno ?? Errno.EIO;
            return true;
        }
        errno = Errno.None;
        return false;
    }

    /// <summary>Whether the configuration changed since the last call.</summary>
    public bool TakeConfigChange()
    {
        var changed = _configUntold;
        _configUntold = false;
        return changed;
    }

    /// <summary>All registers are as at first, and nothing of the device is under way any more.</summary>
    public void Reset()
    {
        _device.Reset();
        Clear();
    }

    /// <summary>What a driver does by writing status 0: as <see cref="Reset"/>, but for what has to wait, as <see cref="VirtioDevice.BeginReset"/> says.</summary>
    /// <param name="isPolled">Whether the driver asks for the status until it is 0.</param>
    public void BeginReset(bool isPolled = true)
    {
        _device.BeginReset(isPolled);
        Clear();
    }

    private void Clear()
    {
        _driverFeatures = VirtioFeatures.None;
        _deviceFeatureSelect = _driverFeatureSelect = 0;
        Volatile.Write(ref _configVector, VIRTIO_MSI_NO_VECTOR);
        _queueSelect = 0;
        foreach (var queue in _queues)
        {
            queue.Clear();
        }
        _configUntold = false;
        _owesInterrupts = false;
    }

    private void Write(Queue queue, int offset, int size, ulong value)
    {
        switch (offset, size)
        {
            case (queue_msix_vector, 2):
                queue.Vector = Vector((ushort)value);
                break;
            case (queue_enable, 2):
                SetReady(queue, value == 1);
                break;
            case (queue_reset, 2) when value == 1 && _transport.Has(VirtioFeatures.VIRTIO_F_RING_RESET):
                if ((_device.Status & VirtioStatus.FEATURES_OK) != 0 && _driverFeatures.Has(VirtioFeatures.VIRTIO_F_RING_RESET))
                    ResetQueue(queue);
                break;
            case (queue_reset, 2) when value == 1:
                SetReady(queue, false);
                break;
            // Size and place are the queue's while it is enabled (4.1.4.3.2).
            case (queue_size, 2) when !_device.IsQueueReady(_queueSelect):
                queue.Size = (ushort)value;
                break;
            case (queue_desc or queue_driver or queue_device, 8) when !_device.IsQueueReady(_queueSelect):
                Area(queue, offset) = value;
                break;
            case (>= queue_desc and < queue_notify_data, 4) when (offset & 3) == 0 && !_device.IsQueueReady(_queueSelect):
                ref var area = ref Area(queue, offset & ~4);
                area = (offset & 4) != 0 ? (area & uint.MaxValue) | (value << 32) : (area & ~(ulong)uint.MaxValue) | value;
                break;
        }
    }

    // Who did not take the feature finds no such queue (4.1.4.3).
    private bool HasAdminQueue => _device.AdminQueueCount > 0 && _driverFeatures.Has(VirtioFeatures.VIRTIO_F_ADMIN_VQ) && (_device.Status & VirtioStatus.FEATURES_OK) != 0;

    private static ref ulong Area(Queue queue, int offset)
    {
        if (offset == queue_desc)
            return ref queue.Descriptors;
        if (offset == queue_driver)
            return ref queue.Driver;
        return ref queue.Device;
    }

    private ushort SizeOf(Queue queue) => queue.Size == 0 ? (ushort)_device.MaxQueueSize : queue.Size;

    private void SetReady(Queue queue, bool ready)
    {
        Volatile.Write(ref queue.Fault, null);
        var done = !ready
            ? _device.TrySetQueueReady(_queueSelect, false, out var fault)
            : _device.IsQueueReady(_queueSelect) | _device.TryEnableQueue(
                _queueSelect, SizeOf(queue), new Iova(queue.Descriptors), new Iova(queue.Driver), new Iova(queue.Device), out fault);
        if (!done)
            Volatile.Write(ref queue.Fault, new FaultBox(fault));
    }

    private void SetStatus(byte status)
    {
        if (status == 0)
        {
            Reset();
            return;
        }
        // SUSPEND is ignored until all is set up, and where it was not negotiated (VIRTIO 1.4, 3.4); the other bits of the write are not.
        var suspends = false;
        if ((status & ~_device.Status & VirtioStatus.SUSPEND) != 0)
        {
            status &= unchecked((byte)~VirtioStatus.SUSPEND);
            suspends = (status & _device.Status & VirtioStatus.DRIVER_OK) != 0 && _driverFeatures.Has(VirtioFeatures.VIRTIO_F_SUSPEND);
        }

        // Features that the device does not take are refused by not taking FEATURES_OK (3.1.1).
        var settles = (status & ~_device.Status & VirtioStatus.FEATURES_OK) != 0;
        var before = _device.DriverFeatures;
        if (settles && !_device.TrySetDriverFeatures(_driverFeatures & ~_transport, out _))
            status &= unchecked((byte)~VirtioStatus.FEATURES_OK);
        // Nothing is left of it; what the driver did not write is no reset.
        if (status == 0)
            return;
        if (_device.TrySetStatus(status, out _) && suspends)
            _device.BeginSuspend();
        // Those that are refused are not the device's either.
        if (settles)
            _device.TrySetDriverFeatures(before, out _);
        if (_owesInterrupts)
            RaiseAll();
    }

    private ushort Vector(ushort wanted) => wanted < _host.VectorLimit ? wanted : VIRTIO_MSI_NO_VECTOR;

    // It moves on once for all changes since the last look: a driver that reads in pieces sees another number however many there were, though it has
    // 8 bits (4.1.4.3.1).
    private byte Generation()
    {
        var now = _device.ConfigGeneration;
        if (now != _seenGeneration)
        {
            _seenGeneration = now;
            _generation++;
        }

        return _generation;
    }

    // The queue is as after a reset of the device (2.6.1).
    private void ResetQueue(Queue queue)
    {
        _device.BeginResetQueue(_queueSelect);
        queue.Clear();
    }

    // On the queue's thread, which somebody who waits for it may hold up: no lock here.
    private void OnFault(int queue, Fault fault)
    {
        Volatile.Write(ref _queues[queue].Fault, new FaultBox(fault));
        Interlocked.Exchange(ref _queues[queue].FaultUntold, 1);
        _host.Tell();
    }

    private void OnConfigChange()
    {
        _configUntold = true;
        _host.Tell();
        // A line that is asserted for a driver that is not there yet would be asserted for ever, to the harm of who shares it.
        if ((_device.Status & VirtioStatus.DRIVER_OK) != 0)
            _host.RaiseConfig(Volatile.Read(ref _configVector));
    }

    /// <summary>A fault as an object, so that it is replaced at once.</summary>
    private sealed record FaultBox(Fault Value);

    private sealed class Queue
    {
        public ushort Size;
        public volatile ushort Vector = VIRTIO_MSI_NO_VECTOR;
        public ulong Descriptors;
        public ulong Driver;
        public ulong Device;
        public FaultBox? Fault;
        public int FaultUntold;

        public void Clear()
        {
            Size = 0;
            Vector = VIRTIO_MSI_NO_VECTOR;
            Descriptors = Driver = Device = 0;
            Volatile.Write(ref Fault, null);
            // What went wrong before is no news to whoever comes after.
            Interlocked.Exchange(ref FaultUntold, 0);
        }
    }
}
