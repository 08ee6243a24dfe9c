using Virtbus.Daemon;

namespace Virtbus.Tests.Cli;

public sealed class WorkPatienceTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromMilliseconds(20);
    private readonly TaskCompletionSource _work = new();
    private int _looks;

    // Each look finds so much more.
    private Func<TimeSpan> Working(double milliseconds) => () => TimeSpan.FromMilliseconds(milliseconds * _looks++);

    [Fact]
    public async Task What_does_next_to_nothing_hangs_at_the_first_look()
    {
        await Assert.ThrowsAsync<TimeoutException>(() => WorkPatience.WaitAsync(_work.Task, Limit, Working(0.9)));
        Assert.Equal(2, _looks);
    }

    [Fact]
    public async Task What_works_as_much_as_it_is_let_to_is_waited_for_until_it_has_worked_for_the_limit()
    {
        await Assert.ThrowsAsync<TimeoutException>(() => WorkPatience.WaitAsync(_work.Task, Limit, Working(2)));
        // One at the begin, and ten times a tenth.
        Assert.Equal(11, _looks);
    }

    [Fact]
    public async Task What_is_done_late_is_done()
    {
        await WorkPatience.WaitAsync(_work.Task, Limit, () =>
        {
            // At the moment of a look at which it would be given up, too.
            if (++_looks == 5)
                _work.SetResult();
            return _looks < 5 ? Limit / 10 * _looks : Limit * 2;
        });
        Assert.Equal(5, _looks);
    }

    [Fact]
    public async Task Failure_of_the_work_is_its_own()
    {
        _work.SetException(new InvalidOperationException("it broke"));
        var failure = await Assert.ThrowsAsync<InvalidOperationException>(() => WorkPatience.WaitAsync(_work.Task, Limit, Working(0)));
        Assert.Equal("it broke", failure.Message);
        // And one that is of its kind is no sign of a hang.
        await Assert.ThrowsAsync<TimeoutException>(() => WorkPatience.WaitAsync(Task.FromException(new TimeoutException()), Limit, Working(0)));
    }
}
