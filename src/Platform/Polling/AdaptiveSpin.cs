using System.Diagnostics;

namespace Virtbus.Platform;

/// <summary>
/// How long a poll thread looks for more work of a client before that sleeps. Sleeping costs a wake-up, which takes longer than many a pause
/// between two requests; spinning costs a processor. So the time grows while pauses are short enough to be bridged and shrinks to nothing
/// when they are not. Used by one thread at a time.
/// </summary>
internal struct AdaptiveSpin
{
    // In ticks of Stopwatch.
    private static readonly long Least = Stopwatch.Frequency / 1_000_000 * 4;
    private static readonly long Most = Stopwatch.Frequency / 1_000_000 * 50;

    public AdaptiveSpin()
    {
    }

    /// <summary>How long to look, in ticks of <see cref="Stopwatch"/>; 0 for not at all.</summary>
    internal long Budget { get; private set; } = Least;

    /// <summary>Work came while the thread looked: a little room above the pause seen keeps it that way.</summary>
    internal void Found(long pause)
    {
        if (pause * 2 > Budget)
            Budget = Math.Min(Most, Math.Max(Least, pause * 2));
    }

    /// <summary>The client slept; the pause lasted this long.</summary>
    internal void Slept(long pause)
    {
        if (pause > Most)
            Budget = Budget / 2 < Least ? 0 : Budget / 2;
        else
            Budget = Math.Min(Most, Math.Max(Least, Budget * 2));
    }
}
