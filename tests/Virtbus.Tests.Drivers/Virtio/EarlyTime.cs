namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>A clock whose timers run out when a test says so, whatever they were set to.</summary>
internal sealed class EarlyTime : TimeProvider
{
    private readonly List<Timer> _timers = [];
    private long _now;

    public override long TimestampFrequency => TimeSpan.TicksPerSecond;

    public override long GetTimestamp() => Volatile.Read(ref _now);

    public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period)
    {
        var timer = new Timer(() => callback(state));
        _timers.Add(timer);
        return timer;
    }

    /// <summary>Turns it on, and has all timers run out.</summary>
    internal void Fire(TimeSpan by)
    {
        Interlocked.Add(ref _now, by.Ticks);
        _timers.ForEach(static t => t.Callback());
    }

    /// <summary>What a timer was set to last, of all that are set.</summary>
    internal IEnumerable<TimeSpan> Due => _timers.Select(static t => t.Due).Where(static d => d != Timeout.InfiniteTimeSpan);

    private sealed class Timer(Action callback) : ITimer
    {
        internal Action Callback => callback;

        internal TimeSpan Due { get; private set; } = Timeout.InfiniteTimeSpan;

        public bool Change(TimeSpan dueTime, TimeSpan period)
        {
            Due = dueTime;
            return true;
        }

        public void Dispose()
        {
        }

        public ValueTask DisposeAsync() => default;
    }
}
