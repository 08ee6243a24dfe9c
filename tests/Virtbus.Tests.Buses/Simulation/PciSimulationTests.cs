using Virtbus.Memory;
using Virtbus.Memory.Dma;

namespace Virtbus.Tests.Buses.Simulation;

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

    // Planted bugs. Each leaves the state that a bug of the parts would leave, so production code has no switch for it.
    [Fact]
    public void Finds_an_owner_that_is_not_released_at_close() => Finds(
        sim =>
        {
            foreach (var node in sim.Nodes)
            {
                if (node.Vfio is { IsOpen: true } vfio)
                    node.Group.TryClaimForUser(vfio, vfio.Name, out _);
            }
        },
        "nobody has the DMA of");

    [Fact]
    public void Finds_a_port_that_a_release_leaves_attached() => Finds(
        sim =>
        {
            foreach (var node in sim.Nodes)
            {
                if (node.Group.OwnerKind == DmaOwnerKind.None && sim.Users[0].Spaces is [var space, ..])
                    node.Port.Exchange(space.Real, out _);
            }
        },
        "did DMA at",
        "should be ENODEV");

    [Fact]
    public void Finds_a_map_that_an_unmap_leaves_behind() => Finds(
        sim =>
        {
            foreach (var space in sim.Users.SelectMany(u => u.Spaces))
            {
                if (!space.Maps.Exists(m => m.Start <= 0x10FFF))
                    space.Real.TryMap(new Iova(0x10000), 0x1000, sim.Memory, 0, DmaAccess.ReadWrite, out _);
            }
        },
        "did DMA at",
        "keeps has");

    [Fact]
    public void Finds_an_unbind_that_does_not_wait_for_the_user() => Finds(
        sim =>
        {
            foreach (var node in sim.Nodes)
            {
                if (node.Vfio is { IsOpen: true, IsLeaving: true } vfio)
                    vfio.Device!.Closed();
            }
        },
        "was let go while a user had it open",
        "goes while a user has it open",
        "open, but its driver was called otherwise");

    [Fact]
    public void Finds_a_request_that_is_lost() => Finds(sim => sim.Time.DropTimers(), "its user was last asked");

    [Fact]
    public void Finds_a_virtual_function_left_behind() => Finds(
        sim =>
        {
            foreach (var node in sim.Nodes)
            {
                if (node is { IsInTree: true, Device.Sriov: { Functions.Length: > 0 } sriov })
                    sriov.Functions = sriov.Functions[..^1];
            }
        },
        "has no such virtual function",
        "its physical function",
        "virtual functions enabled, and its hardware");

    [Fact]
    public void Finds_bus_mastering_that_does_not_follow_the_command_register() => Finds(
        sim =>
        {
            foreach (var node in sim.Nodes)
                node.Port.IsBusMaster |= node.IsInTree;
        },
        "bus mastering of");

    private void Finds(Action<PciSimulation> sabotage, params string[] symptoms) => _runs.Find(seed => new PciSimulation(seed, sabotage), symptoms);
}

/// <summary>The simulation gives back what it took from the host.</summary>
[Collection(nameof(Alone))]
public sealed class PciSimulationHostTests
{
    [Fact]
    public void Two_hundred_seeds_leave_no_descriptor_and_no_mapping()
    {
        Assert.Null(new PciSimulation(1).Run());
        // What other tests left to the finalizers must not hide what this one leaves.
        GC.Collect();
        GC.WaitForPendingFinalizers();
        var descriptors = Descriptors();
        var mappings = Mappings();
        for (var seed = 2ul; seed <= 201; seed++)
            Assert.Null(new PciSimulation(seed).Run());
        Assert.True(Descriptors() <= descriptors, $"{Descriptors() - descriptors} descriptors are left");
        Assert.True(Mappings() <= mappings, $"{Mappings() - mappings} mappings are left");
    }

    private static int Descriptors() => Directory.GetFileSystemEntries("/proc/self/fd").Length;

    private static int Mappings() => File.ReadLines("/proc/self/maps").Count(l => l.Contains("memfd:virtbus-", StringComparison.Ordinal));
}
