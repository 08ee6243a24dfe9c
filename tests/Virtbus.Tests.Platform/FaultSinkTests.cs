using Virtbus.Platform;

namespace Virtbus.Tests.Platform;

/// <summary>Bugs on a data path: each is counted, the first ones are told.</summary>
public sealed class FaultSinkTests
{
    private readonly StandingClock _clock = new();
    private readonly List<string> _told = [];

    [Fact]
    public void First_ones_of_each_source_are_told_and_the_others_with_a_later_one()
    {
        var sink = new FaultSink((source, work, exception, left) => _told.Add($"{source} {work} {exception.Message} {left}"), _clock);
        var (one, two) = (sink.Open("one"), sink.Open("two"));
        for (var i = 0; i < 5; i++)
            one.Report("queue", new InvalidOperationException($"bug {i}"));
        two.Report("register", new InvalidOperationException("other"));
        Assert.Equal(["one queue bug 0 0", "one queue bug 1 0", "one queue bug 2 0", "two register other 0"], _told);
        Assert.Equal((5, 1, 6, "one"), (one.Count, two.Count, sink.Count, one.Name));
        _clock.Seconds = 59.5;
        one.Report("queue", new InvalidOperationException("bug 5"));
        Assert.Equal(4, _told.Count);
        _clock.Seconds = 60;
        FaultSource.Report(one, "queue", new InvalidOperationException("bug 6"));
        Assert.Equal("one queue bug 6 3", _told[^1]);
    }

    [Fact]
    public void Telling_never_throws()
    {
        var nobody = new FaultSink();
        nobody.Open("one").Report("queue", new InvalidOperationException("bug"));
        Assert.Equal(1, nobody.Count);
        var worse = new FaultSink((_, _, _, _) => throw new InvalidOperationException("worse"));
        worse.Open("one").Report("queue", new InvalidOperationException("bug"));
        Assert.Equal(1, worse.Count);
    }
}
