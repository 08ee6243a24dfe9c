namespace Virtbus.Tests.Drivers.Simulation;

/// <summary>
/// Threads of which one runs at a time, for code that waits by blocking its thread. Whoever waits, or comes by a point where another may go on, says by a callback
/// who is next, and hands over to that one.
/// </summary>
/// <param name="choose">Says who is next, on the thread that has the turn; null for nobody, which ends the run.</param>
internal sealed class SeededThreads(Func<SeededThreads.One?> choose)
{
    // Of a thread that waits for what no turn gives it.
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    [ThreadStatic]
    private static One? t_current;

    private readonly List<One> _all = [];
    private readonly List<One> _ready = [];
    private readonly AutoResetEvent _over = new(false);
    private long _turns;
    private bool _isChoosing;

    /// <summary>Those that have not ended.</summary>
    internal IEnumerable<One> Alive => _all.Where(static o => !o.IsOver);

    /// <summary>Those that can go on. The list is another one's at the next call.</summary>
    internal IReadOnlyList<One> Ready
    {
        get
        {
            _ready.Clear();
            foreach (var one in _all)
            {
                if (!one.IsOver && one.WaitsFor is null && one.Until?.Invoke() != false)
                    _ready.Add(one);
            }

            return _ready;
        }
    }

    /// <summary>Makes a thread, which has its first turn later.</summary>
    internal One Start(string name, Action body)
    {
        var one = new One(name);
        var thread = new Thread(
            () =>
            {
                t_current = one;
                one.Turn.WaitOne();
                try
                {
                    body();
                }
                catch (Exception e)
                {
                    one.Error = e;
                }

                one.IsOver = true;
                HandOver(one);
            },
            256 << 10) { IsBackground = true, Name = name };
        _all.Add(one);
        thread.Start();
        return one;
    }

    /// <summary>Runs until nobody is next. Those that have not ended then stay where they are.</summary>
    /// <exception cref="TimeoutException">One of them waits for something else.</exception>
    internal void Run()
    {
        HandOver(null);
        for (long before = -1; !_over.WaitOne(Patience);)
        {
            var turns = Interlocked.Read(ref _turns);
            if (turns == before)
                throw new TimeoutException("Somebody waits for what the simulation does not know of.");
            before = turns;
        }
    }

    /// <summary>A point where another thread may go on; nothing while it is said who is next.</summary>
    internal void Pass()
    {
        if (t_current is { } one && !_isChoosing && HandOver(one))
            one.Turn.WaitOne();
    }

    /// <summary>Lets others go on until something holds.</summary>
    internal void Await(Func<bool> condition)
    {
        var one = t_current!;
        one.Until = condition;
        Pass();
        one.Until = null;
    }

    /// <summary>Waits for a monitor that the thread holds, once.</summary>
    internal void Wait(object monitor)
    {
        t_current!.WaitsFor = monitor;
        Monitor.Exit(monitor);
        Pass();
        Monitor.Enter(monitor);
    }

    /// <summary>Has those go on that wait for a monitor.</summary>
    internal void Tell(object monitor)
    {
        foreach (var one in _all)
        {
            if (one.WaitsFor == monitor)
                one.WaitsFor = null;
        }
    }

    // False when the thread itself is next.
    private bool HandOver(One? current)
    {
        _isChoosing = true;
        var next = choose();
        _isChoosing = false;
        Interlocked.Increment(ref _turns);
        if (next == current && next is not null)
            return false;
        if (next is null)
            _over.Set();
        else
            next.Turn.Set();
        return true;
    }

    internal sealed class One(string name)
    {
        internal string Name => name;

        internal AutoResetEvent Turn { get; } = new(false);

        internal object? WaitsFor { get; set; }

        internal Func<bool>? Until { get; set; }

        internal bool IsOver { get; set; }

        internal Exception? Error { get; set; }
    }
}
