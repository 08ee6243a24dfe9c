namespace Virtbus.Wire.VfioUser;

/// <summary>
/// When to let a peer go on that sends run after run of requests. Where both share a processor, the first request of a run wakes this side
/// and keeps the peer from sending the rest, and each such turn costs two changes of threads. So the processor is left to the peer once before
/// its answers go, and once before the wait for more. Who sends one request and waits for its answer is never waited for.
/// </summary>
/// <remarks>Used by the one thread that takes requests.</remarks>
internal struct VfioUserPace(TimeProvider time)
{
    /// <summary>The least requests between two waits that make a run.</summary>
    internal const int Run = 16;

    private const int MaxSkips = 255;
    private static readonly TimeSpan s_long = TimeSpan.FromMilliseconds(1);
    private int _taken;
    private bool _sendsRuns;
    private bool _lingered;
    private int _backOff;
    private int _skips;
    private bool _isWatched;
    private long _since;

    /// <summary>A request was taken.</summary>
    internal void Took()
    {
        _taken++;
        if (_isWatched)
            Judge();
    }

    /// <summary>All that is here was taken, and its answers are to go.</summary>
    /// <returns>Whether the peer was let go on: what it sent meanwhile can be had before the answers go.</returns>
    internal bool BeforeAnswers()
    {
        if (_sendsRuns && !_lingered && _taken < Run && TryYield())
        {
            _lingered = true;
            return true;
        }

        _sendsRuns = _taken >= Run;
        _lingered = false;
        _taken = 0;
        return false;
    }

    /// <summary>The answers are gone, and the wait for more begins.</summary>
    /// <returns>Whether the peer was let go on.</returns>
    internal bool BeforeWait() => _sendsRuns && TryYield();

    private bool TryYield()
    {
        if (_skips > 0)
        {
            _skips--;
            return false;
        }

        _isWatched = true;
        _since = time.GetTimestamp();
        Thread.Yield();
        return true;
    }

    // Who yields comes back behind all others. Where those want the processor, the next request comes milliseconds later, and this is done ever
    // more rarely: fewer than half of the times are long ones then, so those weigh more.
    private void Judge()
    {
        _isWatched = false;
        _backOff = time.GetElapsedTime(_since) < s_long ? Math.Max(0, _backOff - 1) : Math.Min(MaxSkips, (_backOff * 2) + 1);
        _skips = _backOff;
    }
}
