using Virtbus.Platform;

namespace Virtbus.Tests.Platform;

/// <summary>The gate that "enter, leave, drain" is everywhere.</summary>
public sealed class UseGateTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(20);

    [Fact]
    public void Closed_gate_lets_nobody_in_until_it_is_opened()
    {
        var gate = new UseGate(isOpen: false);
        Assert.True(gate.IsClosed);
        Assert.False(gate.TryEnter());
        gate.Open();
        Assert.True(gate.TryEnter());
        Assert.Equal((1, false), (gate.Users, gate.IsClosed));
        gate.Leave();
        gate.Close();
        Assert.False(gate.TryEnter());
        Assert.Equal(0, gate.Users);
    }

    [Fact]
    public async Task Close_waits_for_those_inside_and_lets_nobody_in_meanwhile()
    {
        var gate = new UseGate();
        Assert.True(gate.TryEnter());
        Assert.True(gate.TryEnter());
        var close = Task.Run(() => gate.Close(), TestContext.Current.CancellationToken);
        Assert.True(SpinWait.SpinUntil(() => gate.IsClosed, Limit));
        Assert.False(gate.TryEnter());
        gate.Leave();
        Assert.False(gate.TryWait(0));
        Assert.False(close.IsCompleted);
        gate.Leave();
        await close.WaitAsync(Limit, TestContext.Current.CancellationToken);
        Assert.True(gate.TryWait(0));
    }

    [Fact]
    public void Stays_of_the_caller_are_not_waited_for()
    {
        var gate = new UseGate();
        Assert.True(gate.TryEnter());
        gate.Close(own: 1);
        Assert.Equal(1, gate.Users);
        gate.Leave();
        Assert.True(gate.TryWait(0));
    }

    [Fact]
    public async Task Nobody_is_inside_when_a_close_returns_whatever_goes_on_at_the_door()
    {
        var gate = new UseGate();
        using var end = CancellationTokenSource.CreateLinkedTokenSource(TestContext.Current.CancellationToken);
        var isAway = 0;
        var wrong = 0;
        var users = Enumerable.Range(0, 3).Select(_ => Task.Run(() =>
        {
            while (!end.IsCancellationRequested)
            {
                if (!gate.TryEnter())
                    continue;
                if (Volatile.Read(ref isAway) != 0)
                    Interlocked.Increment(ref wrong);
                gate.Leave();
            }
        })).ToArray();
        for (var i = 0; i < 2000; i++)
        {
            gate.Close();
            Volatile.Write(ref isAway, 1);
            Thread.SpinWait(20);
            Volatile.Write(ref isAway, 0);
            gate.Open();
        }
        await end.CancelAsync();
        await Task.WhenAll(users).WaitAsync(Limit, CancellationToken.None);
        Assert.Equal(0, wrong);
    }
}
