using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Virtio;

/// <summary>
/// One virtqueue of a device, a client of the poll threads while it runs. Set-up and start and stop come from one control thread at a time
/// (the device's lock); between start and stop only the poll thread that the queue is on touches the ring.
/// </summary>
internal sealed partial class QueueRunner : IPollWork, IDisposable
{
    private const int KickBit = 0;
    private const int CompletionBit = 1;

    // A ring without a kick eventfd is looked at this often, in milliseconds.
    private const int PollInterval = 1;

    private readonly int _index;
    private readonly string _name;
    private readonly IQueueProcessor _processor;
    private readonly Action<int, Fault> _faulted;
    private readonly Action<string, Exception> _failed;
    private readonly Action<QueueRunner> _ended;
    // Of the form that the driver negotiated last.
    private DeviceRing _ring = DeviceRing.Create(isPacked: false);
    private Action? _interrupt;
    private PollClient? _client;
    private EventFd[] _runningKicks = [];
    private volatile bool _isReady;
    private volatile bool _broken;
    // What a stop asks of the thread, and whether that was done.
    private volatile StopState _stop;
    // It asked for a thread of its own; and why it got none.
    private bool _isMoving;
    private volatile string? _whyNotMoved;
    private bool _hasFailed;
    // What the run that ends leaves behind is nobody's.
    private volatile bool _isForgotten;
    private volatile bool _isEnding;
    private QueueState _state;
    private ulong _kicks;
    private ulong _calls;
    private ulong _ringErrors;

    internal QueueRunner(int index, string device, IQueueProcessor processor, Action<int, Fault> faulted, Action<string, Exception> failed,
        Action<QueueRunner> ended)
    {
        _index = index;
        _name = $"{device}-vq{index}";
        _processor = processor;
        _faulted = faulted;
        _failed = failed;
        _ended = ended;
    }

    internal int Size { get; set; }

    internal Iova DescriptorArea { get; set; }

    internal Iova DriverArea { get; set; }

    internal Iova DeviceArea { get; set; }

    /// <summary>Whether the driver has enabled it; changed under the device's lock, read by any thread.</summary>
    internal bool Ready
    {
        get => _isReady;
        set => _isReady = value;
    }

    /// <summary>The eventfds by which the driver wakes it, each of them, from the next start on.</summary>
    internal EventFd[] Kicks { get; set; } = [];

    /// <summary>Whether the ring is looked at now and then while there are no <see cref="Kicks"/>.</summary>
    internal bool Polls { get; set; } = true;

    /// <summary>Whether the queue has a thread of its own although it need not, from the next start on.</summary>
    internal bool OwnThread { get; set; }

    /// <summary>Tells the driver of used buffers; on the queue's thread, also while the queue runs.</summary>
    internal Action? Interrupt
    {
        get => Volatile.Read(ref _interrupt);
        set => Volatile.Write(ref _interrupt, value);
    }

    internal bool IsRunning => _client is not null;

    /// <summary>Whether it was asked by <see cref="BeginStop"/> to stop, and its thread is not through.</summary>
    internal bool IsEnding
    {
        get => _isEnding;
        private set => _isEnding = value;
    }

    /// <summary>Whether the end of what it has in work may be a peer's to answer for.</summary>
    internal bool WaitsForPeer => _ring.MayWaitForPeer;

    /// <summary>Set by the queue's thread when the driver broke the ring; cleared when the queue is made ready anew.</summary>
    internal bool IsBroken
    {
        get => _broken;
        set => _broken = value;
    }

    /// <summary>Where the queue goes on; settled while it does not run.</summary>
    internal QueueState State
    {
        get => IsRunning && !_isForgotten ? _ring.State : _state;
        set => _state = value;
    }

    internal QueueCounters Counters
    {
        get
        {
            var (requests, bytes, errors) = _processor.Counters;
            var (inPlace, uring, worker) = _processor.Ways;
            return new QueueCounters(
                requests, bytes, errors + Volatile.Read(ref _ringErrors), Volatile.Read(ref _kicks), Volatile.Read(ref _calls), inPlace, uring, worker);
        }
    }

    public void Dispose()
    {
        Stop();
        _processor.Dispose();
    }

    internal bool TryStart(DmaPort dma, VirtioFeatures features, out Fault fault)
    {
        var layout = new RingLayout(
            Size,
            DescriptorArea,
            DriverArea,
            DeviceArea,
            features.Has(VirtioFeatures.VIRTIO_F_EVENT_IDX),
            features.Has(VirtioFeatures.VIRTIO_F_INDIRECT_DESC),
            features.Has(VirtioFeatures.VIRTIO_F_IN_ORDER),
            features.Has(VirtioFeatures.VIRTIO_F_RING_PACKED));
        if (layout.Packed != _ring is PackedDeviceRing)
            _ring = DeviceRing.Create(layout.Packed);
        if (_state == default)
            _state = QueueState.Beginning(layout.Packed);
        if (!_ring.TryStart(layout, dma, _state, out fault))
            return false;
        _hasFailed = false;
        _stop = StopState.None;
        _isMoving = false;
        _whyNotMoved = null;
        _held.End();
        _runningKicks = Kicks;
        try
        {
            _processor.Start(_ring, features);
            var client = PollThreads.Shared.Attach(_name, this, Sources(), new PollOptions
            {
                // A ring that is reached by messages waits for the peer at each look.
                OwnThread = OwnThread || _processor.MayBlock || _ring.IsFar,
                Spins = true,
                IntervalMilliseconds = Kicks.Length == 0 && Polls ? PollInterval : 0,
            });
            Volatile.Write(ref _client, client);
            // A kick that came before found nobody; the first turn may have been before it.
            client.Kick();
            return true;
        }
        catch (VirtbusException e)
        {
            // The model was started, perhaps, and no thread comes that would end it.
            ServiceThread.Guard(_name, _processor.Abandon);
            CloseRun();
            fault = new Fault(e.Errno, e.Errno == Errno.EAGAIN ? "the host has no room for the queue's thread" : "the host has no room for the queue: " + e.Errno);
            return false;
        }
        catch (Exception exception)
        {
            // A bug of the model. Whoever changes what many reach goes on to the others.
            Fail(exception);
            CloseRun();
            fault = new Fault(Errno.EIO, "the device model failed: " + exception.Message);
            return false;
        }
    }

    /// <summary>It could not start, for a reason that no change of the map mends: the driver is told as of a ring that is broken.</summary>
    internal void Refuse(Fault fault)
    {
        if (!_broken)
            Break(fault);
    }

    /// <summary>
    /// Ends the queue's service as <see cref="Stop"/> does, but for a ring or buffers that are reached by messages does not wait: the peer may answer none while the
    /// caller keeps it waiting. The queue's thread tells, by the callback, when a <see cref="Stop"/> has nothing left to wait for.
    /// </summary>
    /// <param name="cuts">Whether what is in work by messages is given up, but for the message that is under way.</param>
    /// <param name="neverWaits">Whether it does not wait for what a back end has in work here either.</param>
    internal void BeginStop(bool cuts = false, bool neverWaits = false)
    {
        if (_client is not { } client || client.IsOver || !(neverWaits || _ring.MayWaitForPeer))
        {
            Stop();
            return;
        }

        IsEnding = true;
        AskToStop(client, cuts);
        // It may have ended by itself, and not have seen that it was asked.
        Interlocked.MemoryBarrier();
        if (client.IsOver)
            _ended(this);
    }

    /// <summary>Forgets the set-up; what the queue has in work ends as <see cref="BeginStop"/> or <see cref="Stop"/> says.</summary>
    /// <param name="size">The size that it has from here on.</param>
    internal void Forget(int size)
    {
        _isForgotten = _client is not null;
        Ready = false;
        IsBroken = false;
        State = default;
        Size = size;
        DescriptorArea = default;
        DriverArea = default;
        DeviceArea = default;
    }

    /// <summary>
    /// Ends the queue's service after the batch in hand, with all requests in work done, and lets go of the ring. What the queue calls (interrupt,
    /// fault) may not want the lock that this is called with.
    /// </summary>
    internal void Stop()
    {
        if (_client is null)
            return;
        DrainOnThread(_client);
        _client.Detach();
        _client = null;
        IsEnding = false;
        Finish();
        // The peer may wait on the same eventfd once the queue is stopped, so no old kick is left in it.
        foreach (var kick in _runningKicks)
            kick.TryRead(out _);
        CloseRun();
    }

    // What a thread has asked the kernel to do may be cancelled when the thread ends, so it ends with nothing in flight.
    private void DrainOnThread(PollClient client)
    {
        if (_processor.Completion is null && !_ring.MayWaitForPeer)
            return;
        AskToStop(client, cuts: false);
        var spinner = default(SpinWait);
        while (_stop != StopState.Done && !client.IsOver)
            spinner.SpinOnce(sleep1Threshold: 50);
    }

    private void AskToStop(PollClient client, bool cuts)
    {
        if (_stop == StopState.None)
            _stop = StopState.Asked;
        // Whoever waits for memory that is gone would wait for long.
        _ring.GiveUpFar(cuts);
        client.Kick();
    }

    /// <summary>
    /// Lets go of what a change took away: stops when the ring lies there, else waits for the requests that use it. A ring that is reached by messages
    /// lies nowhere here, and the peer itself looks at each of them: its thread looks again, or waits until it is back.
    /// </summary>
    internal void LetGo(in DmaChange change)
    {
        if (!IsRunning)
            return;
        _ring.TellFar();
        if (_ring.IsFar ? _ring.Uses(change) : _ring.DependsOn(change))
            Stop();
        else if (change.Kind == DmaChangeKind.Unmapped)
            _ring.WaitUntilUnused(change);
    }

    internal void Poke() => Volatile.Read(ref _client)?.Kick();

    // What a back end has in flight does not end in the ring, and a ring that is far costs a message a look.
    bool IPollWork.MaySpin => !_processor.IsWaiting && !_ring.IsFar && !_ring.IsHeldUp;

    bool IPollWork.Work(ulong signals)
    {
        if ((signals & (1UL << KickBit)) != 0)
            _kicks++;
        if (_stop != StopState.None)
        {
            if (_stop == StopState.Asked)
            {
                _processor.Drain();
                Publish();
                _stop = StopState.Done;
                TellEnd();
            }

            return false;
        }

        if (_broken)
        {
            // Nothing more is taken, and no source may wake the thread for nothing. The handle may not be there yet in the first turn.
            End();
            return false;
        }

        if (!_ring.TryFetch(out var fault))
        {
            GiveUp(fault);
            return false;
        }

        var isHeldBack = _held.Begin(_processor.Counters.Requests);
        if (_processor.Process(out fault))
        {
            if (isHeldBack)
                HoldBack();
            else
                Publish();
            return true;
        }

        if (_held.IsHeld)
            TellIfDue();

        if (_ring.IsHeldUp && _whyNotMoved is { } why)
            fault = new Fault(Errno.EAGAIN, why);
        else if (_ring.IsHeldUp)
            AskForThread();
        if (fault != Fault.None)
            GiveUp(fault);
        return false;
    }

    private void GiveUp(Fault fault)
    {
        // The ring went because of the stop, in the next turn.
        if (_stop != StopState.None)
            return;
        // Nothing is in use any more: who unmaps memory would wait for it.
        _processor.Drain();
        Publish();
        _ring.LetGo();
        Break(fault);
        End();
    }

    // It is worked for no more. Who asked meanwhile for a stop that it has no turn for is told.
    private void End()
    {
        _client?.Detach();
        Interlocked.MemoryBarrier();
        TellEnd();
    }

    private void TellEnd()
    {
        if (IsEnding)
            _ended(this);
    }

    // Where nothing more can be taken, buffers that wait in the ring are no reason to look again.
    bool IPollWork.PrepareToSleep()
    {
        if (_stop != StopState.None || _broken || _processor.IsFull)
            return false;
        // What it waits for is told by its move, or by what is in flight. Without the handle it could not ask yet.
        if (_ring.IsHeldUp)
            return !_isMoving && !_processor.IsWaiting;
        return _ring.EnableKicks();
    }

    void IPollWork.Awake()
    {
        if (_stop == StopState.None)
            _ring.DisableKicks();
    }

    // A bug of this program: the queue fails, the process lives.
    bool IPollWork.Failed(Exception exception)
    {
        Fail(exception);
        TellEnd();
        return true;
    }

    // A buffer is a peer's to answer for, and this thread is others' too. The kernel may have what is in flight from this thread: that ends before.
    private void AskForThread()
    {
        if (_isMoving || _processor.IsWaiting || Volatile.Read(ref _client) is not { } client)
            return;
        _isMoving = true;
        ThreadPool.UnsafeQueueUserWorkItem(_ => ServiceThread.Guard(_name, () => Move(client)), null);
    }

    private void Move(PollClient client)
    {
        try
        {
            client.MoveToOwnThread();
        }
        catch (ObjectDisposedException) when (client.IsOver)
        {
            // It was stopped, and the eventfd of its kicks closed.
        }
        catch (VirtbusException e)
        {
            if (Volatile.Read(ref _client) != client)
                return;
            _whyNotMoved = "a buffer is reached by messages, and the host has no room for a thread that waits for them: " + e.Errno;
            client.Kick();
        }
    }

    private void Fail(Exception exception)
    {
        _hasFailed = true;
        ServiceThread.Guard(_name, _processor.Abandon);
        // What was done before is the driver's.
        ServiceThread.Guard(_name, Publish);
        _ring.LetGo();
        _failed(_name, exception);
        Break(new Fault(Errno.EIO, "the device model failed: " + exception.Message));
    }

    private void Finish()
    {
        if (_hasFailed)
            return;
        try
        {
            _processor.Drain();
            Publish();
        }
        catch (Exception exception)
        {
            Fail(exception);
        }
    }

    private void CloseRun()
    {
        _runningKicks = [];
        if (!_isForgotten)
            _state = _ring.State;
        _isForgotten = false;
        _ring.Stop();
    }

    private PollSource[] Sources()
    {
        var sources = new List<PollSource>(2);
        // Edge triggered: each kick wakes once and nothing has to be read from the peer's eventfd.
        foreach (var kick in Kicks)
            sources.Add(new PollSource(kick.Descriptor, KickBit, IsEdge: true));
        if (_processor.Completion is { } completion)
            sources.Add(new PollSource(completion, CompletionBit, IsEdge: true));
        return [.. sources];
    }

    private void Break(Fault fault)
    {
        _ringErrors++;
        IsBroken = true;
        _faulted(_index, fault);
    }

    private enum StopState
    {
        None,
        Asked,
        Done,
    }
}
