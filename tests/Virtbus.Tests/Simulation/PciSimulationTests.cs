using Xunit;

namespace Virtbus.Tests.Simulation;

/// <summary>
/// Functions, virtual functions, DMA owners, opens, requests and surprise removal under seeds: VS-01 to VS-03, VS-09 to VS-11, VP-08. How to
/// replay one: <see cref="SeededRuns"/>.
/// </summary>
public sealed class PciSimulationTests(ITestOutputHelper output)
{
    private readonly SeededRuns _runs = new(output, static (seed, trace) => new PciSimulation(seed, trace: trace));

    [Fact]
    public void Invariants_hold_under_ten_thousand_seeds() => _runs.Hold(10_000);

    [Fact]
    public void Same_seed_gives_the_same_trace() => _runs.Repeat();
}
