using System.Diagnostics;
using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Virtio;

/// <summary>
/// One virtqueue of a device with the thread that owns it while it runs. Set-up and start and stop come from one control thread at a time
/// (the device's lock); between start and stop only the queue's thread touches the ring.
/// </summary>
internal sealed class QueueRunner : IDisposable
{
    private const int KickBit = 0;
    private const int WakeBit = 1;
    private const int CompletionBit = 2;

    // A thread that has no kick eventfd to wait for looks at its ring this often, in milliseconds.
    private const int PollInterval = 1;

    private readonly int _index;
    private readonly string _threadName;
    private readonly IQueueProcessor _processor;
    private readonly Action<int, Fault> _faulted;
    private readonly DeviceRing _ring = new SplitDeviceRing();
    private readonly EventFd _wake = new();
    private readonly AdaptiveSpin _spin = new();
    private Action? _interrupt;
    private ServiceThread? _thread;
    private Epoll? _epoll;
    private EventFd? _runningKick;
    private volatile bool _stopping;
    private volatile bool _broken;
    private QueueState _state;
    private ulong _kicks;
    private ulong _calls;
    private ulong _ringErrors;

    internal QueueRunner(int index, string device, IQueueProcessor processor, Action<int, Fault> faulted)
    {
        _index = index;
        _threadName = $"{device}-vq{index}";
        _processor = processor;
        _faulted = faulted;
    }

    internal int Size { get; set; }

    internal Iova DescriptorArea { get; set; }

    internal Iova DriverArea { get; set; }

    internal Iova DeviceArea { get; set; }

    internal bool Ready { get; set; }

    internal EventFd? Kick { get; set; }

    /// <summary>Whether the ring is looked at now and then while there is no <see cref="Kick"/>.</summary>
    internal bool Polls { get; set; } = true;

    /// <summary>Tells the driver of used buffers; on the queue's thread, also while the queue runs.</summary>
    internal Action? Interrupt
    {
        get => Volatile.Read(ref _interrupt);
        set => Volatile.Write(ref _interrupt, value);
    }

    internal bool IsRunning => _thread is not null;

    /// <summary>Set by the queue's thread when the driver broke the ring; cleared when the queue is made ready anew.</summary>
    internal bool IsBroken
    {
        get => _broken;
        set => _broken = value;
    }

    /// <summary>Where the queue goes on; settled while it does not run.</summary>
    internal QueueState State
    {
        get => IsRunning ? _ring.State : _state;
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
        _wake.Dispose();
    }

    internal bool TryStart(IoMap map, VirtioFeatures features, out Fault fault)
    {
        var layout = new RingLayout(
            Size,
            DescriptorArea,
            DriverArea,
            DeviceArea,
            features.Has(VirtioFeatures.VIRTIO_F_EVENT_IDX),
            features.Has(VirtioFeatures.VIRTIO_F_INDIRECT_DESC));
        if (!_ring.TryStart(layout, map, _state, out fault))
            return false;
        try
        {
            _processor.Start(_ring, features);
            _epoll = OpenEpoll();
        }
        catch
        {
            _ring.Stop();
            throw;
        }

        _runningKick = Kick;
        _stopping = false;
        _thread = ServiceThread.TryStart(_threadName, Run);
        if (_thread is not null)
            return true;
        CloseRun();
        fault = new Fault(Errno.EAGAIN, "the host has no room for the queue's thread");
        return false;
    }

    /// <summary>Ends the queue's thread after the batch in hand, with all requests in work done, and lets go of the ring.</summary>
    internal void Stop()
    {
        if (_thread is null)
            return;
        _stopping = true;
        _wake.Signal();
        _thread.Join();
        _thread = null;
        _wake.TryRead(out _);
        // The peer may wait on the same eventfd once the queue is stopped, so no old kick is left in it.
        _runningKick?.TryRead(out _);
        CloseRun();
    }

    internal void Poke() => _wake.Signal();

    private void CloseRun()
    {
        _epoll?.Dispose();
        _epoll = null;
        _runningKick = null;
        _state = _ring.State;
        _ring.Stop();
    }

    private Epoll OpenEpoll()
    {
        var epoll = new Epoll();
        try
        {
            epoll.Add(_wake.Descriptor, WakeBit, edge: false);
            // Edge triggered: each kick wakes once and nothing has to be read from the peer's eventfd.
            if (Kick is not null)
                epoll.Add(Kick.Descriptor, KickBit, edge: true);
            if (_processor.Completion is { } completion)
                epoll.Add(completion, CompletionBit, edge: true);
            return epoll;
        }
        catch
        {
            epoll.Dispose();
            throw;
        }
    }

    private void Run()
    {
        Fault fault;
        try
        {
            fault = Serve();
            _processor.Drain();
            Publish();
        }
        catch (Exception exception)
        {
            // A bug of this program: the queue fails, the process lives.
            Debug.Fail(exception.ToString());
            fault = new Fault(Errno.EIO, "the device model failed: " + exception.Message);
        }

        if (fault != Fault.None)
            Break(fault);
    }

    private Fault Serve()
    {
        // The first pass needs no kick: the driver may have kicked before anybody listened.
        while (!_stopping)
        {
            if (_processor.Process(out var fault))
                Publish();
            else if (fault != Fault.None)
                return fault;
            else
                Idle();
        }

        return Fault.None;
    }

    private void Publish()
    {
        if (!_ring.Publish())
            return;
        if (Interrupt is not { } interrupt)
            return;
        _calls++;
        interrupt();
    }

    private void Idle()
    {
        var since = Stopwatch.GetTimestamp();
        if (Spin(since))
        {
            _spin.Found(Stopwatch.GetTimestamp() - since);
            return;
        }

        // Where nothing more can be taken, buffers that wait in the ring are no reason to look again.
        if ((_processor.IsFull || !_ring.EnableKicks()) && !_stopping)
        {
            var ready = _epoll!.Wait(_runningKick is null && Polls ? PollInterval : -1);
            if ((ready & (1u << KickBit)) != 0)
                _kicks++;
            if ((ready & (1u << WakeBit)) != 0)
                _wake.TryRead(out _);
            _spin.Slept(Stopwatch.GetTimestamp() - since);
        }

        _ring.DisableKicks();
    }

    private bool Spin(long since)
    {
        var budget = _spin.Budget;
        // What a back end has in flight does not end in the ring; its descriptor is waited on, which tells of the ring as well.
        if (budget == 0 || _processor.IsWaiting)
            return false;
        do
        {
            for (var i = 0; i < 8; i++)
            {
                if (_ring.HasAvailable() || _stopping)
                    return true;
                Thread.SpinWait(4);
            }
        }
        while (Stopwatch.GetTimestamp() - since < budget);
        return false;
    }

    private void Break(Fault fault)
    {
        _ringErrors++;
        IsBroken = true;
        _faulted(_index, fault);
    }
}
