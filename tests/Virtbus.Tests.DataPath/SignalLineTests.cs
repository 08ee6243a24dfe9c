using Virtbus.Platform;

namespace Virtbus.Tests.DataPath;

/// <summary>A line to a user's eventfd: muted, exchanged, and collected with others for one system call.</summary>
public sealed class SignalLineTests
{
    [Fact]
    public void Signal_that_comes_while_muted_comes_once_afterwards()
    {
        using var call = new EventFd();
        var line = new SignalLine();
        line.Signal();
        line.Set(call);
        Assert.Equal(0ul, Count(call));
        line.Mute();
        line.Signal();
        line.Signal();
        Assert.Equal(0ul, Count(call));
        line.Unmute();
        line.Unmute();
        Assert.Equal(1ul, Count(call));
    }

    [Fact]
    public void Batch_signals_each_line_as_often_as_it_was_signalled_when_it_ends()
    {
        Assert.SkipUnless(KernelSignal.IsThere, "the host has no Linux AIO");
        var calls = Enumerable.Range(0, 20).Select(_ => new EventFd()).ToArray();
        var lines = calls.Select(c => Line(c)).ToArray();
        var batch = new SignalBatch();
        batch.Begin();
        foreach (var line in lines)
            line.Signal();
        lines[19].Signal();
        // Sixteen at once; the rest waits for the end.
        Assert.Equal((1ul, 0ul), (Count(calls[0]), Count(calls[19])));
        batch.End();
        Assert.Equal((0ul, 1ul, 2ul), (Count(calls[0]), Count(calls[18]), Count(calls[19])));
        lines[0].Signal();
        Assert.Equal(1ul, Count(calls[0]));
        foreach (var call in calls)
            call.Dispose();
    }

    [Fact]
    public void Eventfd_that_was_closed_too_early_costs_the_others_of_its_batch_nothing()
    {
        Assert.SkipUnless(KernelSignal.IsThere, "the host has no Linux AIO");
        using var open = new EventFd();
        var closed = new EventFd();
        SignalLine[] lines = [Line(closed), Line(open)];
        var batch = new SignalBatch();
        batch.Begin();
        foreach (var line in lines)
            line.Signal();
        closed.Dispose();
        batch.End();
        Assert.Equal(1ul, Count(open));
        // Nobody is left inside of either.
        foreach (var line in lines)
            line.Set(null);
    }

    [Fact]
    public void Exchange_tells_what_its_own_thread_has_collected_and_waits_for_other_threads_batches()
    {
        Assert.SkipUnless(KernelSignal.IsThere, "the host has no Linux AIO");
        using var first = new EventFd();
        using var second = new EventFd();
        var line = Line(first);
        var batch = new SignalBatch();
        batch.Begin();
        line.Signal();
        line.Signal();
        line.Set(second);
        Assert.Equal(2ul, Count(first));
        batch.End();
        Assert.Equal(0ul, Count(first));

        using var collected = new ManualResetEventSlim();
        using var go = new ManualResetEventSlim();
        var other = new Thread(() =>
        {
            var its = new SignalBatch();
            its.Begin();
            line.Signal();
            collected.Set();
            go.Wait();
            its.End();
        });
        other.Start();
        Assert.True(collected.Wait(TimeSpan.FromSeconds(20)));
        var exchange = new Thread(() => line.Set(first));
        exchange.Start();
        Assert.False(exchange.Join(50));
        go.Set();
        Assert.True(exchange.Join(TimeSpan.FromSeconds(20)));
        Assert.Equal(1ul, Count(second));
        other.Join();
    }

    [Fact]
    public void Batch_allocates_nothing()
    {
        using var call = new EventFd();
        var line = Line(call);
        var batch = new SignalBatch();
        for (var round = 0; round < 2; round++)
        {
            var before = GC.GetAllocatedBytesForCurrentThread();
            for (var i = 0; i < 20; i++)
            {
                batch.Begin();
                line.Signal();
                line.Signal();
                batch.End();
            }
            if (round == 1)
                Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
        }
    }

    [Fact]
    public void Exchange_frees_who_hangs_in_an_eventfd_that_its_user_filled_and_made_blocking()
    {
        using var full = new EventFd();
        using var next = new EventFd();
        Blocking.Fill(full);
        var line = new SignalLine(isShared: false);
        line.Set(full);
        var hanging = new Thread(line.Signal);
        hanging.Start();
        // Most likely it is in the write by then; when it comes later it finds the next one.
        hanging.Join(50);
        line.Set(next);
        hanging.Join();
        Count(next);
        line.Signal();
        Assert.Equal(1ul, Count(next));
    }

    private static SignalLine Line(EventFd call)
    {
        var line = new SignalLine();
        line.Set(call);
        return line;
    }

    private static ulong Count(EventFd call) => call.TryRead(out var count) ? count : 0;
}
