using System.Collections.Concurrent;
using Virtbus.Ethernet;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// A thread of an adapter and the work that it does. The common lane works for the wire and for all functions that the host's drivers have. A
/// function that a user owns has one of its own: its memory may be reached by messages, which that user answers when it likes. The thread
/// starts with the first work and sleeps when there is none. It is a poll thread of the lane's own, since commands may wait: for the queues that
/// they stop, and those for their disk.
/// </summary>
/// <remarks>A lane never waits for another one, nor for the gate of a function that another one works for.</remarks>
internal sealed class AdapterLane : IPollWork, IDisposable
{
    /// <summary>Bytes of <see cref="Scratch"/>.</summary>
    public const int ScratchSize = 0x10000;

    private const int WorkPerTurn = 64;
    private readonly string _name;
    private readonly Lock _lock = new();
    private readonly ConcurrentQueue<AdapterWork> _work = new();
    private readonly Inbound _inbound;
    private readonly Action<IFrameSink, Exception> _flushFailed;
    private byte[]? _scratch;
    private PollClient? _client;
    private volatile bool _isOver;

    /// <summary>Makes a lane without work.</summary>
    internal AdapterLane(AdapterEngine engine, string name)
    {
        _name = name;
        _inbound = new Inbound(this);
        _flushFailed = (sink, exception) => Break((AdapterWork)sink, exception);
        Switching = engine.Switch.AddLane(_inbound.Schedule);
    }

    /// <summary>Memory for a frame or a copy, for the work that is being done; on the lane's thread.</summary>
    internal byte[] Scratch => _scratch ??= new byte[ScratchSize];

    /// <summary>The ports of the switch that it works for.</summary>
    internal SwitchLane Switching { get; }

    /// <summary>Queues work that is marked as scheduled. Any thread.</summary>
    internal void Enqueue(AdapterWork work)
    {
        _work.Enqueue(work);
        // Work that comes without a thread waits for the next, which tries again.
        if (TryStart())
            _client?.Kick();
        if (_isOver)
            HandOver();
    }

    /// <summary>Lets signals of an eventfd ask for turns of a piece of work.</summary>
    /// <param name="signal">The eventfd; stays the caller's, and open until <see cref="Unlisten"/>.</param>
    /// <param name="work">The work.</param>
    /// <returns>For <see cref="Unlisten"/>; null when the lane is over.</returns>
    /// <exception cref="VirtbusException">The host has no descriptor or no thread left, or does not take the eventfd.</exception>
    internal PollClient? Listen(EventFd signal, AdapterWork work)
    {
        lock (_lock)
        {
            if (!TryStart())
            {
                throw new VirtbusException(Errno.EAGAIN,
                    $"The host has no room for a thread of adapter '{_name}'. Raise the limit of threads (ulimit -u, pids.max of the cgroup) or free memory.");
            }

            return _isOver
                ? null
                : PollThreads.Shared.Attach(
                    "doorbell of adapter " + _name,
                    new Doorbell(work),
                    [new PollSource(signal.Descriptor, 0, IsEdge: true)],
                    new PollOptions { Thread = _client!.Thread });
        }
    }

    internal static void Unlisten(PollClient? listener) => listener?.Detach();

    /// <summary>Ends the thread. Nothing listens any more; what waits goes to the lanes that it belongs to by now, or is of what is gone.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            if (_isOver)
                return;
            _isOver = true;
        }
        // From the lane's own thread, that ends after the round in hand.
        _client?.Detach();
        HandOver();
    }

    bool IPollWork.Work(ulong signals) => Round();

    bool IPollWork.PrepareToSleep() => !_work.IsEmpty;

    void IPollWork.Awake()
    {
    }

    private void HandOver()
    {
        while (_work.TryDequeue(out var work))
        {
            if (work.Lane != this)
                work.Lane.Enqueue(work);
        }
    }

    private bool TryStart()
    {
        if (Volatile.Read(ref _client) is not null)
            return true;
        lock (_lock)
        {
            try
            {
                if (_client is null && !_isOver)
                    Volatile.Write(ref _client, PollThreads.Shared.Attach("adapter " + _name, this, [], new PollOptions { OwnThread = true }));
                return true;
            }
            catch (VirtbusException)
            {
                return false;
            }
        }
    }

    private bool Round()
    {
        var done = 0;
        for (; done < WorkPerTurn && _work.TryDequeue(out var work); done++)
        {
            if (work.Lane != this)
            {
                work.Lane.Enqueue(work);
                continue;
            }
            work.BeginTurn();
            try
            {
                if (work.Run(this))
                    work.Schedule();
            }
            catch (Exception exception)
            {
                Break(work, exception);
            }
        }
        Switching.EndBatch(_flushFailed);
        return done > 0;
    }

    // A bug of this program: the function fails, the adapter lives.
    private void Break(AdapterWork work, Exception exception)
    {
        FaultSource.Report(work.Faults, "adapter " + _name, exception);
        ServiceThread.Guard("adapter " + _name, () => work.Break(this));
    }

    /// <summary>An eventfd that asks for turns.</summary>
    private sealed class Doorbell(AdapterWork work) : IPollWork
    {
        public bool Work(ulong signals)
        {
            if (signals != 0)
                work.Schedule();
            return false;
        }

        public bool PrepareToSleep() => false;

        public void Awake()
        {
        }
    }

    /// <summary>Frames that came from other lanes.</summary>
    private sealed class Inbound(AdapterLane lane) : AdapterWork
    {
        private const int Batch = 64;

        internal override AdapterLane Lane => lane;

        internal override bool Run(AdapterLane lane) => lane.Switching.TakeInbound(Batch);
    }
}
