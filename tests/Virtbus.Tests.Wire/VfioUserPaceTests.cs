using Virtbus.Wire.VfioUser;

namespace Virtbus.Tests.Wire;

/// <summary>Whom the server lets go on sending before it answers.</summary>
public sealed class VfioUserPaceTests
{
    private readonly Clock _clock = new();

    private static bool[] Turn(ref VfioUserPace pace, int requests)
    {
        for (var i = 0; i < requests; i++)
            pace.Took();
        var answers = pace.BeforeAnswers();
        return answers ? [true] : [false, pace.BeforeWait()];
    }

    [Fact]
    public void Who_waits_for_each_answer_is_never_waited_for()
    {
        var pace = new VfioUserPace(_clock);
        foreach (var requests in new[] { 1, 1, 2, VfioUserPace.Run - 1, 1, 0, 1 })
            Assert.Equal([false, false], Turn(ref pace, requests));
    }

    [Fact]
    public void First_request_of_the_next_run_is_answered_with_the_rest()
    {
        var pace = new VfioUserPace(_clock);
        Assert.Equal([false, true], Turn(ref pace, VfioUserPace.Run));
        for (var i = 0; i < 3; i++)
        {
            Assert.Equal([true], Turn(ref pace, 1));
            Assert.Equal([false, true], Turn(ref pace, VfioUserPace.Run - 1));
        }
    }

    [Fact]
    public void Run_that_does_not_come_is_waited_for_once()
    {
        var pace = new VfioUserPace(_clock);
        Turn(ref pace, VfioUserPace.Run);
        Assert.Equal([true], Turn(ref pace, 1));
        Assert.Equal([false, false], Turn(ref pace, 0));
        Assert.Equal([false, false], Turn(ref pace, 1));
    }

    [Fact]
    public void Where_others_want_the_processor_it_is_left_ever_more_rarely()
    {
        var pace = new VfioUserPace(_clock);
        _clock.Step = 3;
        List<int> between = [];
        for (int i = 0, last = 0; i < 1100; i++)
        {
            if (!Turn(ref pace, VfioUserPace.Run)[^1])
                continue;
            between.Add(i - last);
            last = i;
        }

        Assert.Equal([0, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256], between);
        // Where they are through, it is left to the peer as before, in the end.
        _clock.Step = 0;
        for (var i = 0; i < 256 * 256; i++)
            Turn(ref pace, VfioUserPace.Run);
        for (var i = 0; i < 3; i++)
            Assert.Equal([false, true], Turn(ref pace, VfioUserPace.Run));
    }

    /// <summary>A clock that goes on by so many milliseconds whenever it is looked at.</summary>
    private sealed class Clock : TimeProvider
    {
        private long _now;

        internal long Step { get; set; }

        public override long TimestampFrequency => 1000;

        public override long GetTimestamp() => _now += Step;
    }
}
