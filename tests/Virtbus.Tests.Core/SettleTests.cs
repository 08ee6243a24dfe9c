using Virtbus.Core;

namespace Virtbus.Tests.Core;

/// <summary>Who waits for what goes on waits for all of it, but for what a device asks for afterwards.</summary>
public sealed class SettleTests
{
    [Fact]
    public async Task Notice_that_was_there_and_what_it_starts_are_waited_for_and_later_ones_are_not()
    {
        var fabric = new Fabric();
        var (first, second, later) = (Source(), Source(), Source());
        fabric.StartNotice("first", async () =>
        {
            await first.Task;
            fabric.StartWork("second", () => second.Task);
        });
        var settled = fabric.SettleAsync(TestContext.Current.CancellationToken);
        fabric.StartNotice("later", () => later.Task);
        first.SetResult();
        var all = fabric.SettleAsync(TestContext.Current.CancellationToken);
        Assert.False(settled.IsCompleted);
        second.SetResult();
        await settled.In();
        Assert.False(all.IsCompleted);
        later.SetResult();
        await all.In();
    }

    [Fact]
    public async Task Work_is_waited_for_whenever_it_began()
    {
        var fabric = new Fabric();
        var first = Source();
        var isDone = false;
        fabric.StartWork("first", () => first.Task);
        var settled = fabric.SettleAsync(TestContext.Current.CancellationToken);
        fabric.StartNotice("between", static () => Task.CompletedTask);
        fabric.StartWork("later", async () =>
        {
            await first.Task;
            for (var i = 0; i < 1000; i++)
                await Task.Yield();
            isDone = true;
        });
        first.SetResult();
        await settled.In();
        Assert.True(isDone);
    }

    [Fact]
    public async Task Notices_without_end_keep_nobody()
    {
        var fabric = new Fabric();
        var gates = Enumerable.Range(0, 100).Select(static _ => Source()).ToArray();
        fabric.StartNotice("0", () => gates[0].Task);
        var settled = fabric.SettleAsync(TestContext.Current.CancellationToken);
        // The next one is there before the last one ends.
        for (var i = 1; i < gates.Length; i++)
        {
            var gate = gates[i];
            fabric.StartNotice($"{i}", () => gate.Task);
            gates[i - 1].SetResult();
        }

        await settled.In();
        gates[^1].SetResult();
        await fabric.SettleAsync(TestContext.Current.CancellationToken).In();
    }

    private static TaskCompletionSource Source() => new(TaskCreationOptions.RunContinuationsAsynchronously);
}
