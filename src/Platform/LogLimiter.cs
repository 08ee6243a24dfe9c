namespace Virtbus.Platform;

/// <summary>
/// Keeps a peer from filling the log: so many lines in a span of time, the rest is counted and told with the next line. Safe from any thread.
/// </summary>
/// <param name="time">The clock.</param>
/// <param name="lines">The most lines in a span.</param>
/// <param name="span">The span.</param>
public sealed class LogLimiter(TimeProvider time, int lines, TimeSpan span)
{
    private readonly Lock _lock = new();
    private long _start = time.GetTimestamp();
    private int _used;
    private long _suppressed;

    /// <summary>Whether a line may be written now, and how many were left out before it.</summary>
    /// <param name="suppressed">How many were left out since the last line; they are told with this one.</param>
    public bool TryTake(out long suppressed)
    {
        lock (_lock)
        {
            if (time.GetElapsedTime(_start) >= span)
            {
                _start = time.GetTimestamp();
                _used = 0;
            }

            suppressed = _suppressed;
            if (_used == lines)
            {
                _suppressed++;
                return false;
            }

            _used++;
            _suppressed = 0;
            return true;
        }
    }
}
