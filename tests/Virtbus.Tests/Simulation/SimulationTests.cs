using System.Diagnostics;
using System.Globalization;
using Virtbus.Core;
using Xunit;

namespace Virtbus.Tests.Simulation;

/// <summary>
/// The whole core under seeds: DM-01 to DM-06, DM-15, DM-17, DM-20, DM-21, DM-24, DM-26. Set VIRTBUS_SEED to replay one seed with its trace,
/// VIRTBUS_SEEDS to run another number of them.
/// </summary>
public sealed class SimulationTests(ITestOutputHelper output)
{
    [Fact]
    public void Invariants_hold_under_ten_thousand_seeds()
    {
        if (Environment.GetEnvironmentVariable("VIRTBUS_SEED") is { Length: > 0 } one)
        {
            var seed = ulong.Parse(one, CultureInfo.InvariantCulture);
            var replay = new Simulation(seed, trace: true);
            var failure = replay.Run();
            Assert.True(failure is null, $"seed {seed}: {failure}\n{replay.Trace}");
            return;
        }
        var count = int.Parse(Environment.GetEnvironmentVariable("VIRTBUS_SEEDS") ?? "10000", CultureInfo.InvariantCulture);
        var watch = Stopwatch.StartNew();
        long failed = long.MaxValue;
        string? what = null;
        var gate = new Lock();
        Parallel.For(1, count + 1, (seed, state) =>
        {
            if (new Simulation((ulong)seed).Run() is not { } failure)
                return;
            lock (gate)
            {
                if (seed < failed)
                    (failed, what) = (seed, failure);
            }
            state.Break();
        });
        output.WriteLine($"{count} seeds in {watch.Elapsed.TotalSeconds:0.0} s: {count / watch.Elapsed.TotalSeconds:0} seeds/s");
        Assert.True(what is null, $"seed {failed}: {what}\nReplay it with VIRTBUS_SEED={failed}.");
    }

    [Fact]
    public void Same_seed_gives_the_same_trace()
    {
        for (var seed = 1ul; seed <= 20; seed++)
        {
            var first = new Simulation(seed, trace: true);
            first.Run();
            var second = new Simulation(seed, trace: true);
            second.Run();
            Assert.Equal(first.Trace, second.Trace);
            Assert.Equal(first.Hash, second.Hash);
            Assert.NotEqual(first.Hash, new Simulation(seed + 1).Hash);
        }
    }

    // Planted bugs. Each does to the core's own state what a bug of the core would do, so production code has no switch for it.
    [Fact]
    public void Finds_a_transition_that_does_not_exclude_others() => Finds(
        sim =>
        {
            foreach (var device in sim.Alive)
            {
                if (device is { Holder: not null, Waiters: null })
                    device.Holder = null;
            }
        },
        "runs beside its");

    [Fact]
    public void Finds_a_lost_retry_of_a_deferred_probe() => Finds(
        sim =>
        {
            foreach (var device in sim.Alive)
                device.IsRetryQueued = true;
        },
        "would take it");

    [Fact]
    public void Finds_a_reference_dropped_at_delete_instead_of_at_release() => Finds(
        sim =>
        {
            if (sim.Alive.FirstOrDefault(d => d is { Held: > 0, References: > 1 }) is { } held)
                held.Put();
        },
        "is released while it is held",
        "is in the tree without a reference",
        "no reference left");

    private void Finds(Action<Simulation> sabotage, params string[] symptoms)
    {
        for (var seed = 1ul; seed <= 500; seed++)
        {
            if (new Simulation(seed, sabotage).Run() is { } failure && symptoms.Any(s => failure.Contains(s, StringComparison.Ordinal)))
            {
                output.WriteLine($"seed {seed}: {failure}");
                return;
            }
        }
        Assert.Fail("500 seeds did not find the planted bug.");
    }
}
