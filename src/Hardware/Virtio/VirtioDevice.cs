using Virtbus.Memory;
using Virtbus.Memory.Rings;
using Virtbus.Platform;

namespace Virtbus.Hardware.Virtio;

/// <summary>
/// The hardware side of a virtio device: status, features, configuration space and queues. A driver adapts it to its subsystem's ops
/// member by member. Calls may come from any thread; one is let through at a time. A device model derives from it and brings its
/// configuration layout and what its queues do.
/// </summary>
public abstract class VirtioDevice : IDisposable
{
    private readonly Lock _lock = new();
    private readonly VirtioQueue[] _queues;
    private IoMap _map = IoMap.CreateEmpty();
    private Action? _configChanged;
    private Action<int, Fault>? _queueFaulted;
    private ulong _driverFeatures;
    private int _status;
    private bool _disposed;

    private protected VirtioDevice(string name, int queueCount, int maxQueueSize)
    {
        if (queueCount is < 1 or > 256)
            throw new VirtbusException(Errno.EINVAL, $"Device '{name}' cannot have {queueCount} queues. Choose 1 to 256.");
        if (maxQueueSize is < 1 or > SplitRing.MaxSize || !int.IsPow2(maxQueueSize))
        {
            throw new VirtbusException(Errno.EINVAL,
                $"Device '{name}' cannot have queues of {maxQueueSize} descriptors. Choose a power of two up to {SplitRing.MaxSize}.");
        }

        Name = name;
        MaxQueueSize = maxQueueSize;
        _queues = new VirtioQueue[queueCount];
    }

    /// <summary>What the device is called in logs and thread names.</summary>
    public string Name { get; }

    /// <summary>Virtio device type (VIRTIO 1.2, 5).</summary>
    public abstract uint DeviceId { get; }

    /// <summary>How many virtqueues the device has.</summary>
    public int QueueCount => _queues.Length;

    /// <summary>The largest queue size, a power of two.</summary>
    public int MaxQueueSize { get; }

    /// <summary>Feature bits that the device offers.</summary>
    public abstract ulong DeviceFeatures { get; }

    /// <summary>Feature bits that the driver took; 0 after a reset.</summary>
    public ulong DriverFeatures
    {
        get
        {
            lock (_lock)
                return _driverFeatures;
        }
    }

    /// <summary>Size of the configuration space in bytes.</summary>
    public abstract int ConfigSize { get; }

    /// <summary>Number that changes when the configuration space changes under the driver.</summary>
    public uint ConfigGeneration { get; private set; }

    /// <summary>Device status bits, see <see cref="VirtioStatus"/>.</summary>
    public byte Status => (byte)Volatile.Read(ref _status);

    /// <summary>Takes the driver's choice of features.</summary>
    /// <param name="features">The bits.</param>
    /// <param name="fault">EINVAL for a bit that was not offered; EBUSY after FEATURES_OK.</param>
    /// <returns>Whether they were taken.</returns>
    public bool TrySetDriverFeatures(ulong features, out Fault fault)
    {
        lock (_lock)
        {
            if ((_status & VirtioStatus.FEATURES_OK) != 0)
                return Refuse(Errno.EBUSY, "features are settled until a reset", out fault);
            if ((features & ~DeviceFeatures) != 0)
                return Refuse(Errno.EINVAL, "a feature was taken that the device does not offer", out fault);
            _driverFeatures = features;
            return Done(out fault);
        }
    }

    /// <summary>Reads the configuration space.</summary>
    /// <param name="offset">Byte offset.</param>
    /// <param name="destination">Where to.</param>
    /// <param name="fault">EINVAL when the range leaves the space.</param>
    /// <returns>Whether it was read.</returns>
    public bool TryGetConfig(int offset, Span<byte> destination, out Fault fault)
    {
        lock (_lock)
        {
            if (offset < 0 || offset > ConfigSize || destination.Length > ConfigSize - offset)
                return Refuse(Errno.EINVAL, "the range leaves the configuration space", out fault);
            ReadConfig(offset, destination, SettledFeatures);
            return Done(out fault);
        }
    }

    /// <summary>Writes the configuration space, as a driver may.</summary>
    /// <param name="offset">Byte offset.</param>
    /// <param name="source">What.</param>
    /// <param name="fault">EINVAL when the range leaves the space; EROFS for a field that a driver may not write.</param>
    /// <returns>Whether it was written.</returns>
    public bool TrySetConfig(int offset, ReadOnlySpan<byte> source, out Fault fault)
    {
        lock (_lock)
        {
            if (offset < 0 || offset > ConfigSize || source.Length > ConfigSize - offset)
                return Refuse(Errno.EINVAL, "the range leaves the configuration space", out fault);
            return TryWriteConfig(offset, source, SettledFeatures, out fault);
        }
    }

    /// <summary>Sets what is called when the configuration space or the status changed by itself.</summary>
    /// <param name="callback">The callback, on any thread, not to block; null for none.</param>
    public void SetConfigCallback(Action? callback) => Volatile.Write(ref _configChanged, callback);

    /// <summary>Sets what is called when a ring error stopped a queue.</summary>
    /// <param name="callback">Queue number and cause; on the queue's thread, not to block and not to call the device; null for none.</param>
    public void SetQueueFaultCallback(Action<int, Fault>? callback) => Volatile.Write(ref _queueFaulted, callback);

    /// <summary>Where bugs of the model are told: whoever puts the device somewhere sets it. Without it <see cref="ServiceThread.Unhandled"/> hears of them.</summary>
    public FaultSource? Faults { get; set; }

    /// <summary>Sets the status bits.</summary>
    /// <param name="status">All bits; 0 resets the device.</param>
    /// <param name="fault">EINVAL for a bit that would be taken back other than by a reset.</param>
    /// <returns>Whether they were set.</returns>
    public bool TrySetStatus(byte status, out Fault fault)
    {
        if (status == 0)
        {
            Reset();
            return Done(out fault);
        }

        lock (_lock)
        {
            // DEVICE_NEEDS_RESET is the device's own bit; a driver that writes the others back need not know of it (2.1.1).
            var old = _status & ~VirtioStatus.DEVICE_NEEDS_RESET;
            if ((old & ~status) != 0)
                return Refuse(Errno.EINVAL, "a status bit was taken back without a reset", out fault);
            Interlocked.Or(ref _status, status & ~VirtioStatus.DEVICE_NEEDS_RESET);
            if ((old & VirtioStatus.DRIVER_OK) == 0 && (status & VirtioStatus.DRIVER_OK) != 0)
            {
                foreach (var queue in _queues)
                    TryRun(queue, out _);
            }

            return Done(out fault);
        }
    }

    /// <summary>
    /// Stops all queues and forgets status, features and queue set-up, the index of the next buffer included. Map, eventfds and the
    /// configuration that the driver wrote stay.
    /// </summary>
    public void Reset()
    {
        lock (_lock)
        {
            foreach (var queue in _queues)
            {
                queue.Stop();
                queue.Ready = false;
                queue.IsBroken = false;
                queue.NextAvailable = 0;
                queue.Size = MaxQueueSize;
                queue.DescriptorArea = default;
                queue.DriverArea = default;
                queue.DeviceArea = default;
            }

            _driverFeatures = 0;
            Interlocked.Exchange(ref _status, 0);
        }
    }

    /// <summary>Resets the device for another user, who knows nothing of it yet: what the one before read of its configuration does not count.</summary>
    public void BeginUse()
    {
        lock (_lock)
        {
            Reset();
            OnBeginUse();
        }
    }

    /// <summary>
    /// Replaces all that the device may reach by DMA. Running queues stand still meanwhile. One whose ring is not reachable any more waits
    /// until a later map brings it back.
    /// </summary>
    /// <param name="map">The new map; the device takes a reference of its own.</param>
    public void SetMap(IoMap map)
    {
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            foreach (var queue in _queues)
                queue.Stop();
            _map.Dispose();
            _map = map.Acquire();
            foreach (var queue in _queues)
                TryRun(queue, out _);
        }
    }

    /// <summary>Says where a queue's rings are.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="descriptorArea">Descriptor table.</param>
    /// <param name="driverArea">Available ring.</param>
    /// <param name="deviceArea">Used ring.</param>
    /// <param name="fault">EBUSY while the queue is ready.</param>
    /// <returns>Whether it was taken.</returns>
    public bool TrySetQueueAddress(int queue, Iova descriptorArea, Iova driverArea, Iova deviceArea, out Fault fault)
    {
        lock (_lock)
        {
            if (At(queue).Ready)
                return RefuseReady(out fault);
            At(queue).DescriptorArea = descriptorArea;
            At(queue).DriverArea = driverArea;
            At(queue).DeviceArea = deviceArea;
            return Done(out fault);
        }
    }

    /// <summary>Sets the number of descriptors of a queue.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="size">A power of two up to <see cref="MaxQueueSize"/>.</param>
    /// <param name="fault">EINVAL; EBUSY while the queue is ready.</param>
    /// <returns>Whether it was taken.</returns>
    public bool TrySetQueueSize(int queue, int size, out Fault fault)
    {
        lock (_lock)
        {
            if (At(queue).Ready)
                return RefuseReady(out fault);
            if (size < 1 || size > MaxQueueSize || !int.IsPow2(size))
                return Refuse(Errno.EINVAL, "the queue size is no power of two within the device's limit", out fault);
            At(queue).Size = size;
            return Done(out fault);
        }
    }

    /// <summary>Makes a queue ready, or stops it after finishing what it has in work.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="ready">Whether it shall be.</param>
    /// <param name="fault">EFAULT, EINVAL when the rings do not lie in mapped memory or are not aligned.</param>
    /// <returns>Whether it was done; stopping always is.</returns>
    public bool TrySetQueueReady(int queue, bool ready, out Fault fault)
    {
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            var target = At(queue);
            if (target.Ready == ready)
                return Done(out fault);
            target.Stop();
            target.IsBroken = false;
            target.Ready = ready;
            if (!ready || TryRun(target, out fault))
                return Done(out fault);
            target.Ready = false;
            return false;
        }
    }

    /// <summary>Whether a queue is ready.</summary>
    /// <param name="queue">Queue number.</param>
    /// <returns>True as well while it waits for DRIVER_OK or for its memory, and when a ring error stopped it.</returns>
    public bool IsQueueReady(int queue)
    {
        lock (_lock)
            return At(queue).Ready;
    }

    /// <summary>Sets the index of the first buffer that the queue takes.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="nextAvailable">Free-running index in the available ring.</param>
    /// <param name="fault">EBUSY while the queue is ready.</param>
    /// <returns>Whether it was taken.</returns>
    public bool TrySetQueueState(int queue, ushort nextAvailable, out Fault fault)
    {
        lock (_lock)
        {
            if (At(queue).Ready)
                return RefuseReady(out fault);
            At(queue).NextAvailable = nextAvailable;
            return Done(out fault);
        }
    }

    /// <summary>Reads the index of the next buffer that the queue takes; settled while the queue is not ready.</summary>
    /// <param name="queue">Queue number.</param>
    /// <returns>Free-running index in the available ring.</returns>
    public ushort GetQueueState(int queue)
    {
        lock (_lock)
            return At(queue).NextAvailable;
    }

    /// <summary>Sets the eventfd by which the driver wakes a queue.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="kick">The eventfd, open until it is replaced.</param>
    /// <param name="polls">Without an eventfd: whether the device looks at the ring now and then, or only when it is poked.</param>
    public void SetQueueKick(int queue, EventFd? kick, bool polls = true)
    {
        // The eventfd belongs to the caller, who closes the old one when this returns; so the queue stands still while it is exchanged.
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            var target = At(queue);
            target.Stop();
            target.Kick = kick;
            target.Polls = polls;
            TryRun(target, out _);
        }
    }

    /// <summary>Sets what tells the driver of used buffers.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="interrupt">Called on the queue's thread; it must not wait for the device. Null for none.</param>
    public void SetQueueInterrupt(int queue, Action? interrupt) => At(queue).Interrupt = interrupt;

    /// <summary>Makes a queue look at its ring, for a user without eventfds.</summary>
    /// <param name="queue">Queue number.</param>
    public void KickQueue(int queue) => At(queue).Poke();

    /// <summary>Reads a queue's counters.</summary>
    /// <param name="queue">Queue number.</param>
    /// <returns>The counters, each of them up to date, not all of the same moment.</returns>
    public VirtQueueCounters GetQueueCounters(int queue) => At(queue).Counters;

    /// <summary>Stops all queues and frees them. The backend behind the device stays with who made it.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            if (_disposed)
                return;
            _disposed = true;
            foreach (var queue in _queues)
                queue.Dispose();
            _map.Dispose();
        }

        GC.SuppressFinalize(this);
    }

    private protected static bool Refuse(Errno errno, string message, out Fault fault)
    {
        fault = new Fault(errno, message);
        return false;
    }

    private protected static bool Done(out Fault fault)
    {
        fault = Fault.None;
        return true;
    }

    /// <summary>Makes the queues; the derived constructor calls it once what they need is there.</summary>
    private protected void CreateQueues(Func<int, IQueueProcessor> processor)
    {
        for (var i = 0; i < _queues.Length; i++)
            _queues[i] = new VirtioQueue(i, Name, processor(i), QueueFaulted, (work, exception) => FaultSource.Report(Faults, work, exception)) { Size = MaxQueueSize };
    }

    /// <summary>Reads the configuration space. The driver's features are null until they are settled: then every field that is offered can be read (2.5.2).</summary>
    private protected abstract void ReadConfig(int offset, Span<byte> destination, ulong? driverFeatures);

    private protected abstract bool TryWriteConfig(int offset, ReadOnlySpan<byte> source, ulong? driverFeatures, out Fault fault);

    /// <summary>Another user begins; queues stand still.</summary>
    private protected abstract void OnBeginUse();

    /// <summary>Tells the driver that the configuration space changed.</summary>
    private protected void AnnounceConfigChange()
    {
        lock (_lock)
            ConfigGeneration++;
        Volatile.Read(ref _configChanged)?.Invoke();
    }

    private ulong? SettledFeatures => (_status & VirtioStatus.FEATURES_OK) != 0 ? _driverFeatures : null;

    private static bool RefuseReady(out Fault fault) => Refuse(Errno.EBUSY, "the queue is ready: stop it first", out fault);

    private VirtioQueue At(int queue)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)queue, (uint)_queues.Length, nameof(queue));
        return _queues[queue];
    }

    private bool TryRun(VirtioQueue queue, out Fault fault)
    {
        if (!queue.Ready || queue.IsRunning || queue.IsBroken || (_status & VirtioStatus.DRIVER_OK) == 0)
            return Done(out fault);
        return queue.TryStart(_map, _driverFeatures, out fault);
    }

    private void QueueFaulted(int queue, Fault fault)
    {
        Interlocked.Or(ref _status, VirtioStatus.DEVICE_NEEDS_RESET);
        Volatile.Read(ref _queueFaulted)?.Invoke(queue, fault);
        Volatile.Read(ref _configChanged)?.Invoke();
    }
}
