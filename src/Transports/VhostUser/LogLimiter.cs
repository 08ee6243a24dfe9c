namespace Virtbus.Transports.VhostUser;

/// <summary>
/// Keeps a peer from filling the log: so many lines in a span of time, the rest is counted and told with the next line. Safe from any thread.
/// </summary>
internal sealed class LogLimiter(TimeProvider time, int lines, TimeSpan span)
{
    private readonly Lock _lock = new();
    private long _start = time.GetTimestamp();
    private int _used;
    private long _suppressed;

    /// <summary>Whether a line may be written now, and how many were left out before it.</summary>
    internal bool TryTake(out long suppressed)
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
