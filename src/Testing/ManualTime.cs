namespace Virtbus.Testing;

/// <summary>
/// A clock that a test turns (<c>FabricOptions.Time</c>): it stands until <see cref="Advance"/>, which runs the timers that are due on the thread
/// that turns it, the earlier ones first, each at its own moment. Safe from any thread.
/// </summary>
public sealed class ManualTime : TimeProvider
{
    private readonly Lock _lock = new();
    private readonly List<Timer> _timers = [];
    private long _now;

    /// <summary>How long it has run.</summary>
    public TimeSpan Now => new(GetTimestamp());

    /// <summary>How many timers wait.</summary>
    public int Timers
    {
        get
        {
            lock (_lock)
                return _timers.Count;
        }
    }

    /// <inheritdoc/>
    public override long TimestampFrequency => TimeSpan.TicksPerSecond;

    /// <inheritdoc/>
    public override DateTimeOffset GetUtcNow() => DateTimeOffset.UnixEpoch + Now;

    /// <inheritdoc/>
    public override long GetTimestamp() => Volatile.Read(ref _now);

    /// <inheritdoc/>
    public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period)
    {
        ArgumentNullException.ThrowIfNull(callback);
        var timer = new Timer(this, () => callback(state));
        timer.Change(dueTime, period);
        return timer;
    }

    /// <summary>Turns it on. A timer that a callback sets within the time runs too.</summary>
    /// <param name="by">How far; not negative.</param>
    public void Advance(TimeSpan by)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(by, TimeSpan.Zero);
        var end = GetTimestamp() + by.Ticks;
        while (TakeDue(end) is { } due)
            due.Fire();
    }

    /// <summary>Forgets every timer, as a program does that loses one.</summary>
    public void DropTimers()
    {
        lock (_lock)
            _timers.Clear();
    }

    // The next one that is due by the end, with the clock at its moment; with none the clock is at the end.
    private Timer? TakeDue(long end)
    {
        lock (_lock)
        {
            var next = _timers.Where(t => t.Due <= end).MinBy(t => t.Due);
            Volatile.Write(ref _now, Math.Max(_now, next?.Due ?? end));
            if (next is null)
                return null;
            if (next.Period > 0)
                next.Due += next.Period;
            else
                _timers.Remove(next);
            return next;
        }
    }

    private sealed class Timer(ManualTime time, Action fire) : ITimer
    {
        internal long Due { get; set; }

        internal long Period { get; private set; }

        internal Action Fire => fire;

        public bool Change(TimeSpan dueTime, TimeSpan period)
        {
            lock (time._lock)
            {
                time._timers.Remove(this);
                Due = time._now + dueTime.Ticks;
                Period = period.Ticks;
                if (dueTime >= TimeSpan.Zero)
                    time._timers.Add(this);
            }

            return true;
        }

        public void Dispose()
        {
            lock (time._lock)
                time._timers.Remove(this);
        }

        public ValueTask DisposeAsync()
        {
            Dispose();
            return default;
        }
    }
}
