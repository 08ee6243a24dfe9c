using System.Collections.Concurrent;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio.Admin;
using Virtbus.Virtio.Rings;

namespace Virtbus.Virtio;

/// <summary>
/// The hardware side of a virtio device: status, features, configuration space and queues. A driver adapts it to its subsystem's ops
/// member by member. Calls may come from any thread; one is let through at a time. A device model derives from it and brings its
/// configuration layout and what its queues do.
/// </summary>
public abstract partial class VirtioDevice : IMovableState, IDisposable
{
    private readonly Lock _lock = new();
    private QueueRunner[] _queues;
    private AdminQueue? _admin;
    // Faults of queues that came about under the lock.
    private readonly ConcurrentQueue<(int Queue, Fault Fault)> _untold = new();
    private DmaPort? _dma;
    private Action? _configChanged;
    private Action<int, Fault>? _queueFaulted;
    private VirtioFeatures _driverFeatures;
    private int _status;
    private uint _configGeneration;
    private Action? _resetEnding;
    private bool _isResetting;
    // A driver asked for the reset.
    private bool _isOfDriver;
    private bool _disposed;

    /// <summary>Makes a device, reset, with no driver. The derived constructor calls <see cref="CreateQueues"/> at its end.</summary>
    /// <param name="name">What it is called in logs and thread names.</param>
    /// <param name="queueCount">Number of queues, 1 to 256.</param>
    /// <param name="maxQueueSize">The largest queue size, a power of two up to 32768.</param>
    /// <exception cref="VirtbusException">EINVAL: a number is out of bounds.</exception>
    protected VirtioDevice(string name, int queueCount, int maxQueueSize)
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
        _queues = new QueueRunner[queueCount];
    }

    /// <summary>What the device is called in logs and thread names.</summary>
    public string Name { get; }

    /// <summary>Virtio device type (VIRTIO 1.2, 5).</summary>
    public abstract uint DeviceId { get; }

    /// <summary>How many virtqueues the device has, without <see cref="AdminQueueCount"/>.</summary>
    public int QueueCount => _queues.Length - AdminQueueCount;

    /// <summary>How many administration queues there are behind those, 0 or 1; see <see cref="AddAdminQueue"/>.</summary>
    public int AdminQueueCount => _admin is null ? 0 : 1;

    /// <summary>The largest queue size, a power of two.</summary>
    public int MaxQueueSize { get; }

    /// <summary>Feature bits that the device offers.</summary>
    public abstract VirtioFeatures DeviceFeatures { get; }

    /// <summary>Feature bits that the driver took; none after a reset.</summary>
    public VirtioFeatures DriverFeatures
    {
        get
        {
            lock (_lock)
                return _driverFeatures;
        }
    }

    /// <summary>Size of the configuration space in bytes.</summary>
    public abstract int ConfigSize { get; }

    /// <summary>
    /// Memory that the device shares with its driver; none, unless a model has some. How many regions there are, their ids and their sizes never change. The
    /// memory itself is there until the device is disposed, or exchanged by <see cref="OnUserChanged"/>; what is in it is the model's to clear, save and restore.
    /// </summary>
    public virtual IReadOnlyList<VirtioSharedMemory> SharedMemory => [];

    /// <summary>Number that changes when the configuration space changes under the driver.</summary>
    public uint ConfigGeneration => Volatile.Read(ref _configGeneration);

    /// <summary>Device status bits, see <see cref="VirtioStatus"/>.</summary>
    public byte Status => (byte)Volatile.Read(ref _status);

    /// <summary>Takes the driver's choice of features.</summary>
    /// <param name="features">The bits.</param>
    /// <param name="fault">EINVAL for a bit that was not offered; EBUSY after FEATURES_OK, and while the device is being reset.</param>
    /// <returns>Whether they were taken.</returns>
    public bool TrySetDriverFeatures(VirtioFeatures features, out Fault fault)
    {
        lock (_lock)
        {
            if (_isResetting)
                return RefuseResetting(out fault);
            if (!VirtioStatusRules.Allows(Status, VirtioStep.TakeFeatures, out fault))
                return false;
            if (!features.IsWithin(DeviceFeatures))
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
            if (_frozenConfig is { } frozen)
                frozen.AsSpan(offset, destination.Length).CopyTo(destination);
            else
                ReadConfig(offset, destination, SettledFeatures);
            return Done(out fault);
        }
    }

    /// <summary>Writes the configuration space, as a driver may.</summary>
    /// <param name="offset">Byte offset.</param>
    /// <param name="source">What.</param>
    /// <param name="fault">EINVAL when the range leaves the space; EROFS for a field that a driver may not write; EBUSY while it is suspended, or being reset.</param>
    /// <returns>Whether it was written.</returns>
    public bool TrySetConfig(int offset, ReadOnlySpan<byte> source, out Fault fault)
    {
        lock (_lock)
        {
            if (_isResetting)
                return RefuseResetting(out fault);
            if (IsSuspended)
                return Refuse(Errno.EBUSY, "the device is suspended", out fault);
            if (offset < 0 || offset > ConfigSize || source.Length > ConfigSize - offset)
                return Refuse(Errno.EINVAL, "the range leaves the configuration space", out fault);
            return TryWriteConfig(offset, source, SettledFeatures, out fault);
        }
    }

    /// <summary>Sets what is called when the configuration space or the status changed by itself.</summary>
    /// <param name="callback">The callback, on any thread, not to block; null for none.</param>
    public void SetConfigCallback(Action? callback) => Volatile.Write(ref _configChanged, callback);

    /// <summary>Sets what is called when a ring error stopped a queue.</summary>
    /// <param name="callback">Queue number and cause; on the queue's thread, or on that of a call that starts or ends queues, when it has let go of the device; not to
    /// block and not to call the device. Null for none.</param>
    public void SetQueueFaultCallback(Action<int, Fault>? callback) => Volatile.Write(ref _queueFaulted, callback);

    /// <summary>
    /// Where bugs of the model are told: whoever puts the device somewhere sets it. Without it <see cref="ServiceThread.Unhandled"/> hears of them.
    /// </summary>
    public FaultSource? Faults { get; set; }

    /// <summary>Sets the status bits.</summary>
    /// <param name="status">All bits; 0 resets the device. DRIVER_OK ends a suspension.</param>
    /// <param name="fault">
    /// EINVAL for a bit that comes too early or would be taken back (<see cref="VirtioStatusRules"/>), and what the model says of the features.
    /// </param>
    /// <returns>Whether they were set.</returns>
    public bool TrySetStatus(byte status, out Fault fault)
    {
        if (status == 0)
        {
            Reset();
            return Done(out fault);
        }

        bool owes;
        using (Hold())
        {
            if (_isResetting)
                return RefuseResetting(out fault);
            var old = Status;
            if (!VirtioStatusRules.TryAdvance(old, status, out fault))
                return false;
            if ((status & ~old & VirtioStatus.FEATURES_OK) != 0 && !TryAcceptFeatures(_driverFeatures, out fault))
                return false;
            // DEVICE_NEEDS_RESET is the device's own bit; a queue's thread may set it at any moment (2.1.1).
            Interlocked.Or(ref _status, status & ~(VirtioStatus.DEVICE_NEEDS_RESET | VirtioStatus.SUSPEND));
            if ((status & ~old & VirtioStatus.DRIVER_OK) != 0)
            {
                EndSuspension();
                foreach (var queue in _queues)
                    Run(queue);
            }

            owes = TakeConfigNotice();
        }

        if (owes)
            Volatile.Read(ref _configChanged)?.Invoke();
        return Done(out fault);
    }

    /// <summary>
    /// Stops all queues and forgets status, features and queue set-up, the index of the next buffer included. Map, eventfds and the
    /// configuration that the driver wrote stay.
    /// </summary>
    public void Reset()
    {
        using (Hold())
        {
            foreach (var queue in _queues)
                Forget(queue);
            EndReset();
        }
    }

    /// <summary>
    /// As <see cref="Reset"/>, for a driver that asks for the status until it is 0: where a queue has to wait for a peer that is reached by messages, the
    /// status stays what it was until that is done, and the peer is not kept waiting meanwhile; what it sets up in between is refused. Else it is done when the
    /// call returns.
    /// </summary>
    /// <param name="isPolled">Whether the driver asks. For one that does not, the status is 0 at once: what is in work is given up, but for a message that is under way.</param>
    public void BeginReset(bool isPolled = true)
    {
        using (Hold())
        {
            foreach (var queue in _queues)
            {
                queue.BeginStop(cuts: !isPolled);
                queue.Forget(MaxQueueSize);
            }

            // Who sees 0 already does not ask any more.
            _isResetting = isPolled && HasEnding && Status != 0;
            _isOfDriver = true;
            _isSuspending = false;
            if (_isResetting)
                _driverFeatures = VirtioFeatures.None;
            else
                EndReset();
        }
    }

    /// <summary>Whether a <see cref="BeginReset"/> is under way: until the status is 0 nothing is taken. Any thread.</summary>
    public bool IsResetting => Volatile.Read(ref _isResetting);

    /// <summary>Sets what is called at the end of a <see cref="BeginReset"/> that took longer, before the driver sees it.</summary>
    /// <param name="callback">The callback, on any thread, under no lock, not to block; null for none.</param>
    public void SetResetCallback(Action? callback) => Volatile.Write(ref _resetEnding, callback);

    /// <summary>Resets the device for another user, who knows nothing of it yet: what the one before read of its configuration does not count.</summary>
    public void BeginUse()
    {
        using (Hold())
        {
            Reset();
            OnBeginUse();
        }
    }

    /// <summary>Tells the device that it changed hands (<see cref="OnUserChanged"/>): who offers its shared memory calls it.</summary>
    public void ChangeUser() => OnUserChanged();

    /// <summary>
    /// Says through what the device does DMA: rings and buffers are reached by that port and by nothing else. A change there that a running queue does
    /// not use does not disturb it. One whose ring is not reachable any more waits until a later change brings it back.
    /// </summary>
    /// <param name="dma">The port, whose <see cref="DmaPort.SetChangeCallback"/> is the device's from here on; null for none.</param>
    public void SetDma(DmaPort? dma)
    {
        using (Hold())
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            _dma?.SetChangeCallback(null);
            foreach (var queue in _queues)
                queue.Stop();
            _dma = dma;
            dma?.SetChangeCallback(HandleDmaChange);
            foreach (var queue in _queues)
                Run(queue);
        }
    }

    /// <summary>
    /// Brings the queues in line with a change of what the port of <see cref="SetDma"/> reaches, on the thread that makes the change; when it returns, what
    /// went is not used any more. The port's handler calls it; who has something to do around it sets a handler of its own.
    /// </summary>
    /// <param name="change">The change.</param>
    public void HandleDmaChange(DmaChange change)
    {
        using (Hold())
        {
            if (_disposed)
                return;
            foreach (var queue in _queues)
                queue.LetGo(change);
            if (change.Kind == DmaChangeKind.Unmapped)
                return;
            foreach (var queue in _queues)
                Run(queue);
        }
    }

    /// <summary>Stops all queues and frees them. The backend behind the device stays with who made it.</summary>
    public void Dispose()
    {
        using (Hold())
        {
            if (_disposed)
                return;
            _disposed = true;
            OnDispose();
            foreach (var queue in _queues)
                queue.Dispose();
            _dma?.SetChangeCallback(null);
        }

        GC.SuppressFinalize(this);
    }

    /// <summary>Answers a call with a fault.</summary>
    /// <param name="errno">Its number.</param>
    /// <param name="message">What the driver did wrong, in words.</param>
    /// <param name="fault">The fault.</param>
    /// <returns>False.</returns>
    protected static bool Refuse(Errno errno, string message, out Fault fault)
    {
        fault = new Fault(errno, message);
        return false;
    }

    /// <summary>Answers a call that went well.</summary>
    /// <param name="fault">None.</param>
    /// <returns>True.</returns>
    protected static bool Done(out Fault fault)
    {
        fault = Fault.None;
        return true;
    }

    /// <summary>Makes the queues; the derived constructor calls it once what they need is there.</summary>
    /// <param name="processor">Makes what works on the queue of a number; it is disposed with the device.</param>
    protected void CreateQueues(Func<int, IQueueProcessor> processor)
    {
        for (var i = 0; i < _queues.Length; i++)
            _queues[i] = NewQueue(i, processor(i));
    }

    /// <summary>
    /// Adds an administration queue (VIRTIO 1.4, 2.13) behind the others: its number is <see cref="QueueCount"/>. Who offers VIRTIO_F_ADMIN_VQ does that before a driver
    /// comes. The queue has a thread of its own while it runs.
    /// </summary>
    /// <param name="options">How it judges commands.</param>
    /// <param name="members">The devices that its commands are about.</param>
    /// <exception cref="InvalidOperationException">There is one.</exception>
    public void AddAdminQueue(AdminOptions options, IAdminMembers members)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(members);
        lock (_lock)
        {
            if (_admin is not null)
                throw new InvalidOperationException("The device has an administration queue.");
            _admin = new AdminQueue(new AdminCommands(options, members));
            _queues = [.. _queues, NewQueue(_queues.Length, _admin)];
        }
    }

    /// <summary>Reads the configuration space. One call at a time.</summary>
    /// <param name="offset">First byte, with the length within <see cref="ConfigSize"/>.</param>
    /// <param name="destination">Where to.</param>
    /// <param name="driverFeatures">What the driver took; null until that is settled, when every field that is offered can be read (2.5.2).</param>
    protected abstract void ReadConfig(int offset, Span<byte> destination, VirtioFeatures? driverFeatures);

    /// <summary>Writes the configuration space, as a driver may. One call at a time.</summary>
    /// <param name="offset">First byte, with the length within <see cref="ConfigSize"/>.</param>
    /// <param name="source">What.</param>
    /// <param name="driverFeatures">As for <see cref="ReadConfig"/>.</param>
    /// <param name="fault">EROFS for a field that a driver may not write; EINVAL for a value that it can't have.</param>
    /// <returns>Whether it was written.</returns>
    protected abstract bool TryWriteConfig(int offset, ReadOnlySpan<byte> source, VirtioFeatures? driverFeatures, out Fault fault);

    /// <summary>The device is reset; queues stand still. What a driver set by commands is to be forgotten. Under the device's lock.</summary>
    protected virtual void OnReset()
    {
    }

    /// <summary>
    /// Beside <see cref="OnReset"/> where a driver asked for it by the registers (<see cref="BeginReset"/>): whoever comes next, be it the system after its firmware,
    /// reads the configuration anew. A front end that connects again is none of that. Under the device's lock.
    /// </summary>
    protected virtual void OnDriverReset()
    {
    }

    /// <summary>Another user begins; queues stand still.</summary>
    protected abstract void OnBeginUse();

    /// <summary>
    /// The device changed hands: who had it may keep what it mapped of <see cref="SharedMemory"/>, so the next one gets other memory. Nobody reaches the memory by
    /// registers meanwhile.
    /// </summary>
    protected virtual void OnUserChanged()
    {
    }

    /// <summary>The device goes; what it listens to is to be let go of.</summary>
    protected virtual void OnDispose()
    {
    }

    /// <summary>
    /// Asks whether the features that a driver took go together; it is asked at FEATURES_OK. Any that were offered do, unless a model says
    /// otherwise.
    /// </summary>
    /// <param name="features">What the driver took, all of it offered.</param>
    /// <param name="fault">EINVAL: what does not go together.</param>
    /// <returns>Whether FEATURES_OK is set.</returns>
    protected virtual bool TryAcceptFeatures(VirtioFeatures features, out Fault fault) => Done(out fault);

    /// <summary>
    /// Changes the configuration space by the device's own doing, and tells the driver. The number of <see cref="ConfigGeneration"/> moves on
    /// with the change, so that a driver that reads in pieces sees that they do not belong together (2.5.3).
    /// </summary>
    /// <param name="change">Changes what <see cref="ReadConfig"/> reads; short, and it calls the device no more.</param>
    protected void ChangeConfig(Action change)
    {
        ArgumentNullException.ThrowIfNull(change);
        lock (_lock)
        {
            change();
            // Who stands still tells when it goes on; a driver that suspended the device sees nothing of it before.
            if (!IsSuspended)
                Volatile.Write(ref _configGeneration, _configGeneration + 1);
            if (_isPaused || IsSuspended)
            {
                _owesConfigNotice = true;
                return;
            }
        }
        Volatile.Read(ref _configChanged)?.Invoke();
    }

    private QueueRunner NewQueue(int index, IQueueProcessor processor) =>
        new(index, Name, processor, QueueFaulted, (work, exception) => FaultSource.Report(Faults, work, exception), QueueEnded) { Size = MaxQueueSize };

    private static bool RefuseResetting(out Fault fault) => Refuse(Errno.EBUSY, "the device is being reset", out fault);

    // Before the driver sees it, and begins anew. Under no lock.
    private void EndResetWhenDone()
    {
        lock (_lock)
        {
            if (!_isResetting || HasEnding)
                return;
        }

        Volatile.Read(ref _resetEnding)?.Invoke();
        lock (_lock)
        {
            if (_isResetting && !HasEnding)
                EndReset();
        }
    }

    private void EndReset()
    {
        // Nothing that was set up stays, whenever it was.
        foreach (var queue in _queues)
            queue.Forget(MaxQueueSize);
        _isResetting = false;
        ForgetSuspension();
        _driverFeatures = VirtioFeatures.None;
        _admin?.Commands.Reset();
        OnReset();
        if (_isOfDriver)
            OnDriverReset();
        _isOfDriver = false;
        Interlocked.Exchange(ref _status, 0);
    }

    private VirtioFeatures? SettledFeatures => (_status & VirtioStatus.FEATURES_OK) != 0 ? _driverFeatures : null;
}
