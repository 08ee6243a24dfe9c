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
    /// <param name="isDue">Whether it is written in any case, since the line that it belongs to was: it is not left out.</param>
    public bool TryTake(out long suppressed, bool isDue = false)
    {
        lock (_lock)
        {
            if (time.GetElapsedTime(_start) >= span)
            {
                _start = time.GetTimestamp();
                _used = 0;
            }

            if (_used == lines)
            {
                suppressed = isDue ? 0 : _suppressed++;
                return isDue;
            }

            _used++;
            suppressed = _suppressed;
            _suppressed = 0;
            return true;
        }
    }
}
