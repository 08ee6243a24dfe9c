using Virtbus.Core;

namespace Virtbus.Tests.Core.Simulation;

/// <summary>The whole core under seeds: DM-01 to DM-06, DM-15, DM-17, DM-20, DM-21, DM-24, DM-26. How to replay one: <see cref="SeededRuns"/>.</summary>
public sealed class SimulationTests(ITestOutputHelper output)
{
    private readonly SeededRuns _runs = new(output, static (seed, trace) => new Simulation(seed, trace: trace));

    [Fact]
    public void Invariants_hold_under_ten_thousand_seeds() => _runs.Hold(10_000);

    [Fact]
    public void Same_seed_gives_the_same_trace() => _runs.Repeat();

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

    private void Finds(Action<Simulation> sabotage, params string[] symptoms) => _runs.Find(seed => new Simulation(seed, sabotage), symptoms);
}
