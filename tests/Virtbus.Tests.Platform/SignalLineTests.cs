using Virtbus.Platform;

namespace Virtbus.Tests.Platform;

/// <summary>A line to a user's eventfd: muted and exchanged.</summary>
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

    private static ulong Count(EventFd call) => call.TryRead(out var count) ? count : 0;
}
