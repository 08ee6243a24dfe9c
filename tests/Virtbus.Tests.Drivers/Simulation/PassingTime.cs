namespace Virtbus.Tests.Drivers.Simulation;

/// <summary>A clock that stands until it is turned, and whose timers are points where another thread may go on.</summary>
/// <param name="time">The clock.</param>
/// <param name="threads">The threads.</param>
internal sealed class PassingTime(ManualTime time, SeededThreads threads) : TimeProvider
{
    public override long TimestampFrequency => time.TimestampFrequency;

    public override long GetTimestamp() => time.GetTimestamp();

    public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period) =>
        new Timer(time.CreateTimer(callback, state, dueTime, period), threads);

    private sealed class Timer(ITimer timer, SeededThreads threads) : ITimer
    {
        public bool Change(TimeSpan dueTime, TimeSpan period)
        {
            threads.Pass();
            return timer.Change(dueTime, period);
        }

        public void Dispose() => timer.Dispose();

        public ValueTask DisposeAsync() => timer.DisposeAsync();
    }
}
