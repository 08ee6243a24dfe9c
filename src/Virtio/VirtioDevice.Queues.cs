using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Virtio;

// The queues: their set-up, and whether they run.
public abstract partial class VirtioDevice
{
    /// <summary>Says where a queue's rings are.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="descriptorArea">Descriptor table.</param>
    /// <param name="driverArea">Available ring.</param>
    /// <param name="deviceArea">Used ring.</param>
    /// <param name="fault">EBUSY while the queue is ready, or the device being reset.</param>
    /// <returns>Whether it was taken.</returns>
    public bool TrySetQueueAddress(int queue, Iova descriptorArea, Iova driverArea, Iova deviceArea, out Fault fault)
    {
        lock (_lock)
        {
            if (!IsToBeSetUp(queue, out fault))
                return false;
            At(queue).DescriptorArea = descriptorArea;
            At(queue).DriverArea = driverArea;
            At(queue).DeviceArea = deviceArea;
            return Done(out fault);
        }
    }

    /// <summary>Sets the number of descriptors of a queue.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="size">Up to <see cref="MaxQueueSize"/>; a power of two, unless VIRTIO_F_RING_PACKED was taken.</param>
    /// <param name="fault">EINVAL; EBUSY while the queue is ready, or the device being reset.</param>
    /// <returns>Whether it was taken.</returns>
    public bool TrySetQueueSize(int queue, int size, out Fault fault)
    {
        lock (_lock)
        {
            if (!IsToBeSetUp(queue, out fault))
                return false;
            if (!IsQueueSize(size, _driverFeatures))
                return Refuse(Errno.EINVAL, "the queue size is no power of two within the device's limit", out fault);
            At(queue).Size = size;
            return Done(out fault);
        }
    }

    /// <summary>Makes a queue ready, or stops it after finishing what it has in work.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="ready">Whether it shall be.</param>
    /// <param name="fault">EFAULT, EINVAL when the rings do not lie in mapped memory or are not aligned; EINVAL before FEATURES_OK; EBUSY while the device is
    /// being reset.</param>
    /// <returns>Whether it was done; stopping always is.</returns>
    public bool TrySetQueueReady(int queue, bool ready, out Fault fault)
    {
        using (Hold())
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            var target = At(queue);
            if (target.Ready == ready)
                return Done(out fault);
            if (ready && _isResetting)
                return RefuseResetting(out fault);
            if (ready && !VirtioStatusRules.Allows(Status, VirtioStep.EnableQueue, out fault))
                return false;
            // They were set before the features, perhaps.
            if (ready && !IsQueueSize(target.Size, _driverFeatures))
                return Refuse(Errno.EINVAL, "the queue size is none of such a ring", out fault);
            if (ready && target.State.IsPacked && !_driverFeatures.Has(VirtioFeatures.VIRTIO_F_RING_PACKED))
                return Refuse(Errno.EINVAL, "the queue's state is that of a packed ring", out fault);
            // What ends by messages begins anew behind it.
            if (!target.IsEnding || !target.WaitsForPeer)
                target.Stop();
            target.IsBroken = false;
            if (ready)
                OnQueueEnabling(queue);
            target.Ready = ready;
            if (!ready || TryRun(target, out fault))
                return Done(out fault);
            target.Ready = false;
            return false;
        }
    }

    /// <summary>Sets a queue up and makes it ready, or neither, as for a driver that writes a register for it.</summary>
    internal bool TryEnableQueue(int queue, int size, Iova descriptorArea, Iova driverArea, Iova deviceArea, out Fault fault)
    {
        using (Hold())
        {
            var target = At(queue);
            var (oldSize, oldDescriptors, oldDriver, oldDevice) = (target.Size, target.DescriptorArea, target.DriverArea, target.DeviceArea);
            if (TrySetQueueSize(queue, size, out fault) && TrySetQueueAddress(queue, descriptorArea, driverArea, deviceArea, out fault)
                && TrySetQueueReady(queue, true, out fault))
                return true;
            (target.Size, target.DescriptorArea, target.DriverArea, target.DeviceArea) = (oldSize, oldDescriptors, oldDriver, oldDevice);
            return false;
        }
    }

    /// <summary>
    /// Resets one queue, while the others go on (VIRTIO 1.2, 2.6.1): requests in work are finished and handed back, then its set-up is forgotten, the
    /// place where it goes on included. The driver may set it up anew.
    /// </summary>
    /// <param name="queue">Queue number.</param>
    /// <remarks>VIRTIO_F_RING_RESET is the transport's to offer, and to look at.</remarks>
    public void ResetQueue(int queue)
    {
        using (Hold())
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            Forget(At(queue));
        }
    }

    /// <summary>
    /// As <see cref="ResetQueue"/>, for a driver that asks whether it is done: what has to wait for a peer that is reached by messages is done later, and
    /// <see cref="IsQueueEnding"/> until then.
    /// </summary>
    /// <param name="queue">Queue number.</param>
    public void BeginResetQueue(int queue)
    {
        using (Hold())
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            At(queue).BeginStop();
            At(queue).Forget(MaxQueueSize);
        }
    }

    /// <summary>Whether a queue that was reset has something in work still. One that is made ready meanwhile begins after it.</summary>
    /// <param name="queue">Queue number.</param>
    public bool IsQueueEnding(int queue) => At(queue).IsEnding;

    /// <summary>Whether a queue is ready.</summary>
    /// <param name="queue">Queue number.</param>
    /// <returns>True as well while it waits for DRIVER_OK or for its memory, and when a ring error stopped it.</returns>
    public bool IsQueueReady(int queue)
    {
        lock (_lock)
            return At(queue).Ready;
    }

    /// <summary>Sets where a queue begins.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="state">
    /// The place; one of the other ring format is refused when the queue is made ready. The default value is the beginning of either format.
    /// </param>
    /// <param name="fault">EBUSY while the queue is ready, or the device being reset.</param>
    /// <returns>Whether it was taken.</returns>
    public bool TrySetQueueState(int queue, QueueState state, out Fault fault)
    {
        lock (_lock)
        {
            if (!IsToBeSetUp(queue, out fault))
                return false;
            At(queue).State = state;
            return Done(out fault);
        }
    }

    /// <summary>Reads where a queue goes on; settled while the queue is not ready.</summary>
    /// <param name="queue">Queue number.</param>
    /// <returns>The place.</returns>
    public QueueState GetQueueState(int queue)
    {
        lock (_lock)
        {
            var state = At(queue).State;
            return state == default ? QueueState.Beginning(_driverFeatures.Has(VirtioFeatures.VIRTIO_F_RING_PACKED)) : state;
        }
    }

    /// <summary>Sets the eventfd by which the driver wakes a queue.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="kick">The eventfd, open until it is replaced.</param>
    /// <param name="polls">Without an eventfd: whether the device looks at the ring now and then, or only when it is poked.</param>
    public void SetQueueKick(int queue, EventFd? kick, bool polls = true) => SetQueueKicks(queue, kick is null ? [] : [kick], polls);

    /// <summary>Sets the eventfds by which the driver wakes a queue, any of them, where it has several ways to do that.</summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="kicks">The eventfds, open until they are replaced.</param>
    /// <param name="polls">Without one: as for <see cref="SetQueueKick"/>.</param>
    public void SetQueueKicks(int queue, ReadOnlySpan<EventFd> kicks, bool polls = true)
    {
        // The eventfds belong to the caller, who closes the old ones when this returns; so the queue stands still while they are exchanged.
        using (Hold())
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            var target = At(queue);
            target.Stop();
            target.Kicks = kicks.ToArray();
            target.Polls = polls;
            Run(target);
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
    public QueueCounters GetQueueCounters(int queue) => At(queue).Counters;

    /// <summary>Has queues that start from now on run on threads of their own, or on those that all share.</summary>
    /// <param name="own">Whether each has its own. One whose model may block has it in any case.</param>
    public void UseOwnThreads(bool own)
    {
        lock (_lock)
        {
            foreach (var queue in _queues)
                queue.OwnThread = own;
        }
    }

    /// <summary>
    /// Has the driver be told of a queue's used buffers not at once but of several together: of so many requests, or so long after the first of them, whichever
    /// is earlier, and when the queue stops. Any thread, a queue's own too; it is in force at once.
    /// </summary>
    /// <param name="queue">Queue number.</param>
    /// <param name="packets">How many requests, by the processor's counters; 0 for telling it at once.</param>
    /// <param name="microseconds">How long; 0 for telling it at once. A host without precise waits takes whole milliseconds.</param>
    protected void SetQueueCoalescing(int queue, uint packets, uint microseconds) => At(queue).SetCoalescing(packets, microseconds);

    /// <summary>Whether a queue is enabled, as <see cref="IsQueueReady"/>, for a queue's own thread: it takes no lock.</summary>
    /// <param name="queue">Queue number.</param>
    protected bool IsQueueEnabled(int queue) => At(queue).Ready;

    /// <summary>The driver is about to enable a queue: what belongs to the queue alone begins anew. Under the device's lock.</summary>
    /// <param name="queue">Queue number.</param>
    protected virtual void OnQueueEnabling(int queue)
    {
    }

    private bool IsToBeSetUp(int queue, out Fault fault)
    {
        if (_isResetting)
            return RefuseResetting(out fault);
        return At(queue).Ready ? Refuse(Errno.EBUSY, "the queue is ready: stop it first", out fault) : Done(out fault);
    }

    // A packed ring has any size (2.8.10.1).
    private bool IsQueueSize(int size, VirtioFeatures features) =>
        size >= 1 && size <= MaxQueueSize && (int.IsPow2(size) || features.Has(VirtioFeatures.VIRTIO_F_RING_PACKED));

    private void Forget(QueueRunner queue)
    {
        queue.Stop();
        queue.Forget(MaxQueueSize);
    }

    // On the queue's thread, which is not through with its turn.
    private void QueueEnded(QueueRunner queue) =>
        ThreadPool.UnsafeQueueUserWorkItem(_ => ServiceThread.Guard(Name, () => EndQueue(queue)), null);

    private void EndQueue(QueueRunner queue)
    {
        using (Hold())
        {
            if (queue.IsEnding)
                queue.Stop();
        }

        // What failed is told before a suspension is through.
        using (Hold())
        {
            TryEndSuspending();
            if (!_isResetting)
                Run(queue);
        }

        EndResetWhenDone();
    }

    private bool HasEnding => Array.Exists(_queues, static queue => queue.IsEnding);

    private QueueRunner At(int queue)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)queue, (uint)_queues.Length, nameof(queue));
        return _queues[queue];
    }

    // Where nobody hears an answer. A ring that is out of reach waits for a later change; what else is wrong does not go away by itself.
    private void Run(QueueRunner queue)
    {
        if (!TryRun(queue, out var fault) && fault.Errno != Errno.EFAULT)
            queue.Refuse(fault);
    }

    private bool TryRun(QueueRunner queue, out Fault fault)
    {
        // A function goes while its driver writes a register. One that stands still starts what was asked for when it goes on.
        if (_disposed || _isPaused || _isResetting || _isSuspending || !queue.Ready || queue.IsRunning || queue.IsBroken || !VirtioStatusRules.Allows(Status, VirtioStep.RunQueues, out _))
            return Done(out fault);
        if (_dma is null)
            return Refuse(Errno.EFAULT, "the device reaches no memory", out fault);
        return queue.TryStart(_dma, _driverFeatures, out fault);
    }

    private void QueueFaulted(int queue, Fault fault)
    {
        Interlocked.Or(ref _status, VirtioStatus.DEVICE_NEEDS_RESET);
        if (_lock.IsHeldByCurrentThread)
            _untold.Enqueue((queue, fault));
        else
            Tell(queue, fault);
    }

    private void Tell(int queue, Fault fault)
    {
        Volatile.Read(ref _queueFaulted)?.Invoke(queue, fault);
        Volatile.Read(ref _configChanged)?.Invoke();
    }

    // The device's lock where queues start or end: faults that come of that are told when it is let go of.
    private Held Hold()
    {
        _lock.Enter();
        return new Held(this);
    }

    private void LetGo()
    {
        _lock.Exit();
        while (!_lock.IsHeldByCurrentThread && _untold.TryDequeue(out var one))
            Tell(one.Queue, one.Fault);
    }

    private readonly ref struct Held(VirtioDevice device)
    {
        public void Dispose() => device.LetGo();
    }
}
