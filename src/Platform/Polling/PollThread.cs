using System.Diagnostics;

namespace Virtbus.Platform;

/// <summary>
/// A thread that works for many clients: it sleeps in one epoll set for all of them, gives each that has something to do one batch in turn, and
/// looks a little longer where the next request is likely to come soon. Who is idle is on no list and costs no time.
/// </summary>
/// <remarks>Between a wake-up and the work that it is for there is no lock and no allocation.</remarks>
public sealed class PollThread
{
    private const int TokensAtOnce = 8;
    private const int LooksAtOnce = 32;
    private const int SpinsBetweenLooksAtTheClock = 8;
    private const long NanosecondsPerSecond = 1_000_000_000;

    // How long those that sleep wait at most, beside one batch of each that is awake, until the thread notices that they were woken.
    // While clients are awake, how often sources of the others are looked at: a system call, so it is made less often as long as it finds nothing.
    private static readonly long LeastLook = Stopwatch.Frequency / 1_000_000 * 20;
    private static readonly long MostLook = Stopwatch.Frequency / 1_000_000 * 100;

    [ThreadStatic]
    private static PollThread? _current;

    private readonly Lock _lock = new();
    private readonly PollWatches _watches = new();
    private readonly EventFd _wake = new();
    private readonly List<PollSeat> _timed = [];
    private ServiceThread? _thread;
    private int _clients;

    private PollSeat? _kicked;
    private int _isAsleep;
    private volatile bool _isEnding;

    // The thread's own.
    private PollSeat? _first;
    private PollSeat? _last;
    private int _activeWatches;
    private long _now;
    private long _lastLook;
    private long _lookInterval = LeastLook;
    private long _nextTick = long.MaxValue;

    private PollThread(string name, bool isOwn)
    {
        Name = name;
        IsOwn = isOwn;
    }

    /// <summary>The thread's name.</summary>
    public string Name { get; }

    /// <summary>How many clients it has.</summary>
    public int Clients => Volatile.Read(ref _clients);

    /// <summary>Whether it is one client's own, which may block on it.</summary>
    public bool IsOwn { get; }

    /// <summary>Whether it is the calling thread.</summary>
    public bool IsCurrent => _current == this;

    /// <summary>Whether the calling thread works for many clients, so that it may not wait for any of them.</summary>
    public static bool IsSharedCurrent => _current is { IsOwn: false };

    /// <summary>Whether <see cref="Step"/> gives the turns and no thread does.</summary>
    internal bool IsStepped { get; private init; }

    /// <summary>Makes one that is no thread: whoever has it gives the turns, on one thread at a time, which may wait as that of one client may.</summary>
    internal static PollThread MakeStepped(string name) => new(name, isOwn: true) { IsStepped = true };

    /// <summary>Gives one client that is awake one turn, on the calling thread.</summary>
    /// <param name="choose">Picks one of so many; null for the first.</param>
    /// <returns>False when all sleep.</returns>
    internal bool Step(Func<int, int>? choose = null)
    {
        if (Volatile.Read(ref _kicked) is not null)
            TakeKicks();
        if (_watches.Count > _activeWatches)
            Look(0);
        if (_first is null)
            return false;
        var count = 0;
        for (var one = _first; one is not null; one = one.NextActive)
            count++;
        PollSeat? previous = null;
        var seat = _first;
        for (var skip = choose?.Invoke(count) ?? 0; skip > 0; skip--)
            (previous, seat) = (seat, seat.NextActive!);
        var outer = _current;
        _current = this;
        try
        {
            var worked = false;
            if (!seat.TryEnter() || !Turn(seat, ref worked))
                Unlink(seat, previous);
        }
        finally
        {
            _current = outer;
        }

        return true;
    }

    /// <summary>Starts one.</summary>
    /// <exception cref="VirtbusException">EAGAIN: the host has no room for another thread; or it has no descriptor left.</exception>
    internal static PollThread Start(string name, bool isOwn)
    {
        var thread = new PollThread(name, isOwn);
        try
        {
            thread._watches.AddWake(thread._wake.Descriptor);
            thread._thread = ServiceThread.Start(name, thread.Run);
            return thread;
        }
        catch
        {
            thread.Close();
            throw;
        }
    }

    /// <summary>Listens to a seat's sources; it is worked on when it is open.</summary>
    /// <exception cref="VirtbusException">The host takes no more descriptors into the set.</exception>
    internal void Add(PollSeat seat, ReadOnlySpan<PollSource> sources)
    {
        lock (_lock)
        {
            seat.IsCounted = true;
            _clients++;
        }

        try
        {
            foreach (var source in sources)
            {
                var watch = _watches.Add(seat, source);
                lock (_lock)
                    seat.Watches = [.. seat.Watches, watch];
            }
        }
        catch
        {
            seat.End();
            Remove(seat);
            throw;
        }
    }

    /// <summary>Forgets a seat that is dead, or ends with the call that this is made in.</summary>
    internal void Remove(PollSeat seat)
    {
        PollWatch[] watches;
        lock (_lock)
        {
            if (!seat.IsCounted)
                return;
            seat.IsCounted = false;
            _clients--;
            watches = seat.Watches;
            seat.Watches = [];
        }

        foreach (var watch in watches)
            _watches.Remove(watch);
    }

    /// <summary>Asks for a turn. Any thread; no lock, no allocation, and no system call while the thread is awake.</summary>
    internal void Kick(PollSeat seat)
    {
        if (!seat.TryMarkKicked())
            return;
        PollSeat? head;
        do
        {
            head = Volatile.Read(ref _kicked);
            seat.NextKicked = head;
        }
        while (Interlocked.CompareExchange(ref _kicked, seat, head) != head);
        Wake();
    }

    /// <summary>Ends the thread; none of its clients is worked on any more. Not from the thread itself, which then ends some time later.</summary>
    internal void End()
    {
        _isEnding = true;
        Interlocked.MemoryBarrier();
        Wake();
        if (IsStepped)
            Close();
        else if (!IsCurrent)
            _thread!.Join();
    }

    private void Wake()
    {
        // Whoever takes the mark signals; after it the thread looks at the kicks before it sleeps again.
        if (Volatile.Read(ref _isAsleep) == 0 || Interlocked.Exchange(ref _isAsleep, 0) == 0)
            return;
        try
        {
            _wake.Signal();
        }
        catch (ObjectDisposedException)
        {
            // It ended meanwhile, and with it the seats that could have been kicked.
        }
    }

    private void Close()
    {
        _watches.Dispose();
        _wake.Dispose();
    }

    // What follows is on the thread.

    private void Run()
    {
        _current = this;
        try
        {
            Serve();
        }
        finally
        {
            Close();
        }
    }

    private void Serve()
    {
        var idlePasses = 0;
        _now = Stopwatch.GetTimestamp();
        while (!_isEnding)
        {
            if (Volatile.Read(ref _kicked) is not null)
                TakeKicks();
            if (_now >= _nextTick)
                Tick();
            if (_first is null)
            {
                Sleep();
                continue;
            }

            if (Pass())
            {
                idlePasses = 0;
            }
            else
            {
                // All that are awake wait for their next request.
                Thread.SpinWait(4);
                if (++idlePasses % SpinsBetweenLooksAtTheClock != 0)
                    continue;
            }

            _now = Stopwatch.GetTimestamp();
            if (_now - _lastLook > _lookInterval && _watches.Count > _activeWatches)
                Look(0);
        }
    }

    // Gives each client that is awake one turn.
    private bool Pass()
    {
        var worked = false;
        PollSeat? previous = null;
        for (var seat = _first; seat is not null;)
        {
            var next = seat.NextActive;
            if (seat.TryEnter() && Turn(seat, ref worked))
                previous = seat;
            else
                Unlink(seat, previous);
            seat = next;
        }

        return worked;
    }

    /// <returns>Whether the client stays awake.</returns>
    private bool Turn(PollSeat seat, ref bool worked)
    {
        try
        {
            if (seat.IsArmed)
            {
                seat.IsArmed = false;
                seat.Work.Awake();
                if (seat.Spins && seat.PauseStart != 0)
                    seat.Spin.Slept(_now - seat.PauseStart);
                seat.PauseStart = 0;
            }

            var signals = seat.Signals;
            seat.Signals = 0;
            var stays = true;
            if (seat.Work.Work(signals))
            {
                worked = true;
                if (seat.PauseStart != 0)
                {
                    seat.Spin.Found(_now - seat.PauseStart);
                    seat.PauseStart = 0;
                }
            }
            else
            {
                stays = Rest(seat);
            }

            seat.Exit();
            return stays;
        }
        catch (Exception exception)
        {
            // A bug of this program: that client fails, the others go on.
            Fail(seat, exception);
            return false;
        }
    }

    private bool Rest(PollSeat seat)
    {
        if (seat.Spins && seat.Spin.Budget > 0 && seat.Work.MaySpin)
        {
            if (seat.PauseStart == 0)
            {
                seat.PauseStart = _now;
                return true;
            }

            if (_now - seat.PauseStart < seat.Spin.Budget)
                return true;
        }
        else
        {
            seat.PauseStart = _now;
        }

        if (seat.Work.PrepareToSleep())
        {
            seat.Work.Awake();
            seat.PauseStart = 0;
            return true;
        }

        seat.IsArmed = true;
        PlanDue(seat);
        return false;
    }

    // A turn that it wants by itself. It comes within a second, whatever is wanted, so that who ended meanwhile is let go of.
    private void PlanDue(PollSeat seat)
    {
        var due = seat.Work.DueAt;
        if (due == long.MaxValue)
            return;
        due = Math.Min(due, _now + Stopwatch.Frequency);
        if (!seat.IsTimed)
        {
            seat.IsTimed = true;
            _timed.Add(seat);
            seat.NextTick = due;
        }

        seat.NextTick = seat.IntervalMilliseconds > 0 ? Math.Min(seat.NextTick, due) : due;
        _nextTick = Math.Min(_nextTick, seat.NextTick);
    }

    private void Fail(PollSeat seat, Exception exception)
    {
        var isTold = false;
        ServiceThread.Guard(seat.Name, () => isTold = seat.Work.Failed(exception));
        if (!isTold)
            ServiceThread.Report(seat.Name, exception);
        seat.HasFailed = true;
        seat.Die();
        Remove(seat);
    }

    private void Sleep()
    {
        Interlocked.Exchange(ref _isAsleep, 1);
        // Looked at after the mark: who kicks later finds the mark and signals.
        var isWanted = Volatile.Read(ref _kicked) is not null || _isEnding;
        Look(isWanted ? 0 : NanosecondsToTick());
        Volatile.Write(ref _isAsleep, 0);
        _now = Stopwatch.GetTimestamp();
    }

    private long NanosecondsToTick()
    {
        if (_nextTick == long.MaxValue)
            return Timeout.Infinite;
        var left = _nextTick - Stopwatch.GetTimestamp();
        // Of a time that is far away a second at a time: more of them would not fit.
        return left <= 0 ? 0 : Math.Min(left, Stopwatch.Frequency) * NanosecondsPerSecond / Stopwatch.Frequency;
    }

    private void Look(long nanoseconds)
    {
        Span<ulong> tokens = stackalloc ulong[TokensAtOnce];
        for (var i = 0; i < LooksAtOnce; i++)
        {
            var count = _watches.Wait(tokens, i == 0 ? nanoseconds : 0);
            if (i == 0)
                _lookInterval = count > 0 ? LeastLook : Math.Min(MostLook, _lookInterval * 2);
            foreach (var token in tokens[..count])
            {
                if (_watches.Find(token) is { } watch)
                {
                    watch.Seat.Signals |= watch.Signal;
                    Activate(watch.Seat);
                }
            }

            if (count < TokensAtOnce)
                break;
        }

        _lastLook = _now;
    }

    private void TakeKicks()
    {
        var seat = Interlocked.Exchange(ref _kicked, null);
        while (seat is not null)
        {
            var next = seat.NextKicked;
            seat.NextKicked = null;
            seat.UnmarkKicked();
            if (seat.IntervalMilliseconds > 0 && !seat.IsTimed)
            {
                seat.IsTimed = true;
                _timed.Add(seat);
                Plan(seat);
            }

            Activate(seat);
            seat = next;
        }
    }

    private void Tick()
    {
        _nextTick = long.MaxValue;
        for (var i = _timed.Count - 1; i >= 0; i--)
        {
            var seat = _timed[i];
            var isOver = seat.IsDead;
            if (!isOver && _now < seat.NextTick)
            {
                _nextTick = Math.Min(_nextTick, seat.NextTick);
                continue;
            }

            if (!isOver && seat.IntervalMilliseconds > 0)
            {
                Plan(seat);
            }
            else
            {
                seat.IsTimed = false;
                _timed[i] = _timed[^1];
                _timed.RemoveAt(_timed.Count - 1);
            }

            if (!isOver)
                Activate(seat);
        }
    }

    private void Plan(PollSeat seat)
    {
        seat.NextTick = _now + (Stopwatch.Frequency / 1000 * seat.IntervalMilliseconds);
        _nextTick = Math.Min(_nextTick, seat.NextTick);
    }

    private void Activate(PollSeat seat)
    {
        if (seat.IsActive)
            return;
        seat.IsActive = true;
        seat.ActiveWatches = seat.Watches.Length;
        _activeWatches += seat.ActiveWatches;
        seat.NextActive = null;
        if (_last is null)
            _first = seat;
        else
            _last.NextActive = seat;
        _last = seat;
    }

    private void Unlink(PollSeat seat, PollSeat? previous)
    {
        seat.IsActive = false;
        _activeWatches -= seat.ActiveWatches;
        if (previous is null)
            _first = seat.NextActive;
        else
            previous.NextActive = seat.NextActive;
        if (_last == seat)
            _last = previous;
        seat.NextActive = null;
    }
}
