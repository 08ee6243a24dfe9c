using System.Diagnostics;
using Virtbus.Platform;

namespace Virtbus.Tests.Platform;

/// <summary>How long a poll thread looks for more before a client sleeps: from 4 to 50 microseconds, or not at all.</summary>
public sealed class AdaptiveSpinTests
{
    private static readonly long _microsecond = Stopwatch.Frequency / 1_000_000;

    private static long Microseconds(AdaptiveSpin spin) => spin.Budget / _microsecond;

    [Fact]
    public void Pause_that_was_bridged_gets_twice_its_length_and_never_less_than_there_was()
    {
        var spin = new AdaptiveSpin();
        foreach (var (pause, budget) in new[] { (0, 4), (1, 4), (2, 4), (3, 6), (1, 6), (10, 20), (24, 48), (25, 50), (26, 50), (1000, 50), (1, 50) })
        {
            spin.Found(pause * _microsecond);
            Assert.Equal((pause, budget), (pause, (int)Microseconds(spin)));
        }
    }

    [Fact]
    public void Long_pauses_end_the_looking_and_short_ones_bring_it_back()
    {
        var spin = new AdaptiveSpin();
        spin.Found(25 * _microsecond);
        foreach (var (pause, budget) in new[] { (51, 25), (51, 12), (51, 6), (51, 0), (51, 0), (50, 4), (50, 8), (1, 16), (0, 32), (50, 50), (50, 50), (51, 25) })
        {
            spin.Slept(pause * _microsecond);
            Assert.Equal((pause, budget), (pause, (int)Microseconds(spin)));
        }

        // Half of it is the least that there is still.
        spin = new AdaptiveSpin();
        spin.Found(4 * _microsecond);
        spin.Slept(51 * _microsecond);
        Assert.Equal(4, Microseconds(spin));
        spin.Slept(51 * _microsecond);
        Assert.Equal(0, Microseconds(spin));
        spin.Found(1);
        Assert.Equal(4, Microseconds(spin));
    }
}
