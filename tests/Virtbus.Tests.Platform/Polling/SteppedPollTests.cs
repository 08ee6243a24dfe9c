using Virtbus.Platform;

namespace Virtbus.Tests.Platform.Polling;

/// <summary>A pool without a thread: its clients have a turn when it is stepped.</summary>
public sealed class SteppedPollTests : IDisposable
{
    private readonly PollThreads _pool = PollThreads.MakeStepped("stepped");

    public void Dispose() => _pool.Dispose();

    [Fact]
    public void Clients_have_one_turn_a_step_on_the_thread_that_steps()
    {
        var thread = 0;
        using var kick = new EventFd();
        var left = 2;
        var probe = new PollProbe(_ =>
        {
            thread = Environment.CurrentManagedThreadId;
            Assert.True(_pool[0].IsCurrent);
            Assert.False(PollThread.IsSharedCurrent);
            return left-- > 0;
        });
        var client = _pool.Attach("one", probe, [new PollSource(kick.Descriptor, 3, IsEdge: true)], new PollOptions { Spins = true, OwnThread = true });
        Assert.Equal(0, probe.Turns);
        // Two turns with work, and one without, after which it sleeps.
        Assert.True(_pool[0].Step());
        Assert.Equal((1, Environment.CurrentManagedThreadId), (probe.Turns, thread));
        Assert.True(_pool[0].Step() && _pool[0].Step());
        Assert.False(_pool[0].Step());
        Assert.Equal(3, probe.Turns);
        kick.Signal();
        Assert.True(_pool[0].Step());
        Assert.Equal((4, 1UL << 3), (probe.Turns, probe.Signals));
        client.Kick();
        Assert.True(_pool[0].Step());
        client.Detach();
        client.Kick();
        Assert.Equal((5, 0, 0), (probe.Turns, probe.Wrongs, _pool[0].Clients));
        Assert.False(_pool[0].IsCurrent);
    }

    [Fact]
    public void Who_steps_chooses_who_is_next()
    {
        var order = new List<int>();
        for (var i = 0; i < 3; i++)
        {
            var number = i;
            _pool.Attach($"client {i}", new PollProbe(_ => { order.Add(number); return false; }), []);
        }

        // Kicks are taken last first.
        Assert.True(_pool[0].Step(static count => count - 1));
        Assert.True(_pool[0].Step(static count => count - 1));
        Assert.True(_pool[0].Step());
        Assert.False(_pool[0].Step());
        Assert.Equal([0, 1, 2], order);
    }

    [Fact]
    public void Pool_of_the_thread_takes_the_place_of_the_shared_one()
    {
        PollThreads.Here = _pool;
        Assert.Same(_pool, PollThreads.Shared);
        PollThreads? seen = null;
        var other = new Thread(() => seen = PollThreads.Shared) { IsBackground = true };
        other.Start();
        other.Ends("to ask for the shared pool");
        Assert.NotSame(_pool, seen);
        PollThreads.Here = null;
        Assert.NotSame(_pool, PollThreads.Shared);
    }
}
