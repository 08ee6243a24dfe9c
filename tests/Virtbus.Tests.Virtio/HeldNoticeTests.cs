using Virtbus.Virtio;

namespace Virtbus.Tests.Virtio;

/// <summary>When what is held back is due: by a clock that the test turns.</summary>
public sealed class HeldNoticeTests
{
    private const long Frequency = 1_000_000_000;
    private const long Microsecond = 1000;
    private const long Start = 7_000_000;
    private HeldNotices _held = new(Frequency);

    [Fact]
    public void Time_counts_from_the_first_of_them_in_microseconds_whatever_comes_behind_it()
    {
        Assert.True(_held.TrySet(100, 300));
        Assert.Equal(long.MaxValue, _held.DueAt);
        for (var round = 0UL; round < 3; round++)
        {
            var start = Start + ((long)round * 1_000_000_000);
            Assert.True(_held.Begin(4 * round));
            _held.Hold(start);
            Assert.True(_held.IsHeld);
            Assert.Equal(start + (300 * Microsecond), _held.DueAt);
            Assert.False(_held.IsDue((4 * round) + 1, start));
            // Others come shortly before the end.
            for (var i = 1UL; i < 4; i++)
            {
                Assert.True(_held.Begin((4 * round) + i));
                _held.Hold(start + (299 * Microsecond));
                Assert.Equal(start + (300 * Microsecond), _held.DueAt);
                Assert.False(_held.IsDue((4 * round) + i + 1, start + (300 * Microsecond) - 1));
            }

            Assert.True(_held.IsDue((4 * round) + 4, start + (300 * Microsecond)));
            _held.End();
            Assert.False(_held.IsHeld);
            Assert.Equal(long.MaxValue, _held.DueAt);
        }
    }

    [Fact]
    public void Packets_count_from_the_first_batch_that_is_held_back_and_anew_after_they_are_told()
    {
        _held.TrySet(8, uint.MaxValue);
        foreach (var before in (ulong[])[0, 8, 1000])
        {
            Assert.True(_held.Begin(before));
            _held.Hold(Start);
            Assert.False(_held.IsDue(before + 3, Start));
            Assert.True(_held.Begin(before + 3));
            _held.Hold(Start);
            Assert.False(_held.IsDue(before + 7, Start));
            Assert.True(_held.IsDue(before + 8, Start));
            _held.End();
        }
    }

    [Fact]
    public void Longest_time_is_longer_than_an_hour()
    {
        _held.TrySet(uint.MaxValue, uint.MaxValue);
        Assert.True(_held.Begin(0));
        _held.Hold(0);
        Assert.Equal(uint.MaxValue * Microsecond, _held.DueAt);
        Assert.False(_held.IsDue(uint.MaxValue - 1U, 3600 * Frequency));
    }

    [Theory]
    [InlineData(0, 50)]
    [InlineData(50, 0)]
    public void With_a_0_among_them_nothing_is_held_back_and_what_was_is_due(uint packets, uint microseconds)
    {
        Assert.True(_held.TrySet(100, 300));
        Assert.False(_held.TrySet(100, 300));
        Assert.True(_held.Begin(5));
        _held.Hold(Start);
        Assert.True(_held.TrySet(packets, microseconds));
        Assert.True(_held.IsDue(5, Start));
        _held.End();
        Assert.False(_held.Begin(6));
    }

    [Fact]
    public void New_parameters_tell_of_what_is_due_by_them_and_of_nothing_else()
    {
        _held.TrySet(100, 300);
        _held.Begin(0);
        _held.Hold(Start);
        _held.TrySet(200, 500);
        Assert.False(_held.IsDue(100, Start + (400 * Microsecond)));
        Assert.Equal(Start + (500 * Microsecond), _held.DueAt);
        _held.TrySet(200, 400);
        Assert.True(_held.IsDue(100, Start + (400 * Microsecond)));
        _held.TrySet(100, 500);
        Assert.True(_held.IsDue(100, Start + (400 * Microsecond)));
    }
}
