using System.Collections.Concurrent;
using Virtbus.Ethernet;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// A thread of an adapter and the work that it does. The common lane works for the wire and for all functions that the host's drivers have. A
/// function that a user owns has one of its own: its memory may be reached by messages, which that user answers when it likes. The thread
/// starts with the first work and sleeps when there is none.
/// </summary>
/// <remarks>A lane never waits for another one, nor for the gate of a function that another one works for.</remarks>
internal sealed class AdapterLane : IDisposable
{
    private const int WorkPerTurn = 64;
    private readonly string _name;
    private readonly Lock _lock = new();
    private readonly ConcurrentQueue<AdapterWork> _work = new();
    private readonly ConcurrentDictionary<ulong, AdapterWork> _signals = new();
    private readonly Epoll _epoll = new();
    private readonly EventFd _wake = new();
    private readonly Inbound _inbound;
    private readonly Action<IFrameSink, Exception> _flushFailed;
    private byte[]? _scratch;
    private ulong _lastSignal;
    private ServiceThread? _thread;
    private int _awake;
    private volatile bool _isOver;

    /// <summary>Makes a lane without work.</summary>
    /// <exception cref="VirtbusException">The host has no descriptor left.</exception>
    internal AdapterLane(AdapterEngine engine, string name)
    {
        _name = name;
        _inbound = new Inbound(this);
        _flushFailed = (sink, exception) => Break((AdapterWork)sink, exception);
        _epoll.Add(_wake.Descriptor, 0UL, edge: true);
        Switching = engine.Switch.AddLane(_inbound.Schedule);
    }

    /// <summary>Memory for a frame or a copy, for the work that is being done; on the lane's thread.</summary>
    internal byte[] Scratch => _scratch ??= new byte[FunctionUnit.MaxCopy];

    /// <summary>The ports of the switch that it works for.</summary>
    internal SwitchLane Switching { get; }

    /// <summary>Queues work that is marked as scheduled. Any thread.</summary>
    internal void Enqueue(AdapterWork work)
    {
        _work.Enqueue(work);
        // The eventfd is a system call away; a thread that is awake already needs none.
        if (Interlocked.Exchange(ref _awake, 1) == 0)
            Wake();
        if (_isOver)
            HandOver();
    }

    /// <summary>Lets signals of an eventfd ask for turns of a piece of work.</summary>
    /// <param name="signal">The eventfd; stays the caller's, and open until <see cref="Unlisten"/>.</param>
    /// <param name="work">The work.</param>
    /// <returns>A number for <see cref="Unlisten"/>.</returns>
    /// <exception cref="VirtbusException">The host has no descriptor or no thread left, or does not take the eventfd.</exception>
    internal ulong Listen(EventFd signal, AdapterWork work)
    {
        var id = Interlocked.Increment(ref _lastSignal);
        _signals[id] = work;
        try
        {
            _epoll.Add(signal.Descriptor, id, edge: true);
            if (TryStart())
                return id;
            throw new VirtbusException(Errno.EAGAIN,
                $"The host has no room for a thread of adapter '{_name}'. Raise the limit of threads (ulimit -u, pids.max of the cgroup) or free memory.");
        }
        catch
        {
            Unlisten(signal, id);
            throw;
        }
    }

    internal void Unlisten(EventFd signal, ulong id)
    {
        _epoll.Remove(signal.Descriptor);
        _signals.TryRemove(id, out _);
    }

    /// <summary>Ends the thread. Nothing listens any more; what waits goes to the lanes that it belongs to by now, or is of what is gone.</summary>
    public void Dispose()
    {
        ServiceThread? thread;
        lock (_lock)
        {
            if (_isOver)
                return;
            _isOver = true;
            thread = _thread;
            _wake.Signal();
        }
        if (thread is null)
            Close();
        else if (!thread.IsCurrent)
            thread.Join();
        HandOver();
    }

    private void Close()
    {
        _epoll.Dispose();
        _wake.Dispose();
    }

    private void HandOver()
    {
        while (_work.TryDequeue(out var work))
        {
            if (work.Lane != this)
                work.Lane.Enqueue(work);
        }
    }

    private void Wake()
    {
        // Work that comes without a thread waits for the next, which tries again.
        if (!TryStart())
            Interlocked.Exchange(ref _awake, 0);
        lock (_lock)
        {
            if (!_isOver)
                _wake.Signal();
        }
    }

    private bool TryStart()
    {
        if (Volatile.Read(ref _thread) is not null)
            return true;
        lock (_lock)
        {
            if (_thread is null && !_isOver)
                _thread = ServiceThread.TryStart("adapter " + _name, Run);
            return _thread is not null || _isOver;
        }
    }

    private void Run()
    {
        while (!_isOver)
        {
            // Signals come in while there is other work too.
            if (!_signals.IsEmpty)
                Poll(0);
            if (Round())
                continue;
            Interlocked.Exchange(ref _awake, 0);
            // Looked at after the mark: work that comes later finds the mark and signals.
            if (_work.IsEmpty && !_isOver)
                Poll(-1);
            Interlocked.Exchange(ref _awake, 1);
        }
        Close();
    }

    private void Poll(int milliseconds)
    {
        Span<ulong> ready = stackalloc ulong[32];
        var count = _epoll.Wait(ready, milliseconds);
        foreach (var id in ready[..count])
        {
            if (_signals.TryGetValue(id, out var work) && work.TrySchedule())
                _work.Enqueue(work);
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

    /// <summary>Frames that came from other lanes.</summary>
    private sealed class Inbound(AdapterLane lane) : AdapterWork
    {
        private const int Batch = 64;

        internal override AdapterLane Lane => lane;

        internal override bool Run(AdapterLane lane) => lane.Switching.TakeInbound(Batch);
    }
}
