using Virtbus.Core;

namespace Virtbus.Tests.Core;

/// <summary>Who waits for what goes on waits for that and what comes of it, and not for what comes afterwards.</summary>
public sealed class SettleTests
{
    [Fact]
    public async Task Work_of_work_is_waited_for_and_later_work_is_not()
    {
        var fabric = new Fabric();
        var (first, second, later) = (Source(), Source(), Source());
        fabric.StartWork("first", async () =>
        {
            await first.Task;
            fabric.StartWork("second", () => second.Task);
        });
        var settled = fabric.SettleAsync(TestContext.Current.CancellationToken);
        fabric.StartWork("later", () => later.Task);
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
    public async Task Work_that_always_follows_on_work_keeps_nobody()
    {
        var fabric = new Fabric();
        var gates = Enumerable.Range(0, 100).Select(static _ => Source()).ToArray();
        fabric.StartWork("0", () => gates[0].Task);
        var settled = fabric.SettleAsync(TestContext.Current.CancellationToken);
        // The next one is there before the last one ends.
        for (var i = 1; i < gates.Length; i++)
        {
            var gate = gates[i];
            fabric.StartWork($"{i}", () => gate.Task);
            gates[i - 1].SetResult();
        }

        await settled.In();
        gates[^1].SetResult();
        await fabric.SettleAsync(TestContext.Current.CancellationToken).In();
    }

    private static TaskCompletionSource Source() => new(TaskCreationOptions.RunContinuationsAsynchronously);
}
