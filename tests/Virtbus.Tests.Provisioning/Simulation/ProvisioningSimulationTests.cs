using Virtbus.Provisioning;
using static Virtbus.Provisioning.ProvisionedFunction;

namespace Virtbus.Tests.Provisioning.Simulation;

/// <summary>The provisioning engine under seeds: PV-01 to PV-03, PV-06. How to replay one: <see cref="SeededRuns"/>.</summary>
public sealed class ProvisioningSimulationTests(ITestOutputHelper output)
{
    private readonly SeededRuns _runs = new(output, static (seed, trace) => new ProvisioningSimulation(seed, trace: trace));

    [Fact]
    public void Invariants_hold_under_ten_thousand_seeds() => _runs.Hold(10_000);

    [Fact]
    public void Same_seed_gives_the_same_trace() => _runs.Repeat();

    // Planted bugs. Each does to the engine's own state, or to the store's, what a bug of the engine would do.
    [Fact]
    public void Finds_a_visible_function_that_is_not_active() => Finds(
        sim =>
        {
            foreach (var function in sim.Engine.Functions)
            {
                if (function is { Now.Work: Work.None, Device: not null })
                    function.Now = function.Now with { Device = null };
            }
        },
        "is there, and");

    [Fact]
    public void Finds_a_wish_that_nobody_had() => Finds(
        sim =>
        {
            foreach (var function in sim.Engine.Functions)
            {
                if (function.State == FunctionState.Configured)
                    function.Now = function.Now with { IsWanted = true };
            }
        },
        "but should be");

    [Fact]
    public void Finds_a_begin_without_an_end() => Finds(
        sim => sim.Engine.Functions.FirstOrDefault(static f => f.Now.Work == Work.None)?.Begin(Work.Changing),
        "is at work, but nothing goes on");

    [Fact]
    public void Finds_a_definition_that_is_lost() => Finds(sim => sim.Store.Kept.Clear(), "is not kept", "after a kill");

    [Fact]
    public void Finds_a_place_that_is_not_kept() => Finds(
        sim =>
        {
            foreach (var (name, kept) in sim.Store.Kept)
                sim.Store.Kept[name] = kept with { Place = null };
        },
        "is kept at", "again");

    [Fact]
    public void Finds_a_function_that_does_not_return() => Finds(
        sim =>
        {
            foreach (var function in sim.Engine.Functions)
                function.IsForgotten = function.IsAwaited;
        },
        "is not back");

    [Fact]
    public void Finds_a_function_that_came_by_a_number_and_is_not_told_of() => Finds(static sim => sim.IsNoted = false, "is there, and", "after 'number 0'");

    private void Finds(Action<ProvisioningSimulation> sabotage, params string[] symptoms) => _runs.Find(seed => new ProvisioningSimulation(seed, sabotage), symptoms);
}
