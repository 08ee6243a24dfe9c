using Virtbus.Ethernet;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioNet;

namespace Virtbus.Tests.Hardware.Simulation;

/// <summary>Virtio functions and their guests under seeds. How to replay one: <see cref="SeededRuns"/>.</summary>
public sealed class VirtioSimulationTests(ITestOutputHelper output)
{
    private readonly SeededRuns _runs = new(output, static (seed, trace) => new VirtioSimulation(seed, trace: trace));

    [Fact]
    public void Invariants_hold_under_two_thousand_seeds() => _runs.Hold(2_000);

    [Fact]
    public void Same_seed_gives_the_same_trace() => _runs.Repeat();

    // Planted bugs. Each does what a bug of a device would do, so production code has no switch for it.
    [Fact]
    public void Finds_memory_that_is_written_after_a_reset() => Finds(
        static sim => sim.Guests.FirstOrDefault(static g => g is { IsThere: true, IsUp: false })?.Scribble(), "its memory is written");

    [Fact]
    public void Finds_memory_that_is_written_by_a_virtual_function_that_is_gone() => Finds(
        static sim => sim.Guests.FirstOrDefault(static g => g is { IsVirtual: true, IsThere: false })?.Scribble(), "its memory is written");

    [Fact]
    public void Finds_a_request_that_is_answered_twice() => Finds(
        static sim =>
        {
            foreach (var guest in sim.Guests)
                guest.Repeat();
        },
        "is broken by its device", "which is not out");

    [Fact]
    public void Finds_a_notification_that_is_lost() => Finds(
        static sim =>
        {
            foreach (var guest in sim.Guests)
                guest.IsUnheard = true;
        },
        "are not answered");

    [Fact]
    public void Finds_data_that_nobody_wrote() => Finds(
        static sim =>
        {
            foreach (var guest in sim.Guests.OfType<DiskGuest>())
                guest.Disk.Content[1000]++;
        },
        "has what nobody wrote there");

    [Fact]
    public void Finds_an_interrupt_after_a_reset() => Finds(
        static sim =>
        {
            foreach (var guest in sim.Guests)
            {
                if (guest is { IsThere: true, IsUp: false, Function: IVirtioUnitPort port })
                    port.RaiseVector(0);
            }
        },
        "it sends a message, and may not");

    [Fact]
    public void Finds_an_interrupt_that_does_not_come() => Finds(
        static sim =>
        {
            foreach (var guest in sim.Guests)
                guest.Device?.SetQueueInterrupt(0, null);
        },
        "did not tell");

    [Fact]
    public void Finds_frames_at_a_guest_that_they_are_not_for() => Finds(
        static sim =>
        {
            foreach (var settings in sim.NetGuests.Select(static g => (g.Device as VirtioNetDevice)?.Settings))
                settings?.Change(static (ReceiveFilter filter) => filter.WithMode(ReceiveFilter.Promiscuous, true), settings.Generation);
        },
        "which is for");

    [Fact]
    public void Finds_a_frame_that_comes_twice() => Finds(
        static sim =>
        {
            if (sim.NetGuests is not [_, _, ..] || !sim.NetGuests[0].IsThere)
                return;
            var port = ((VirtioNetDevice)sim.NetGuests[0].Device!).Port;
            foreach (var (number, frame) in sim.Frames)
            {
                if (frame.From == sim.NetGuests[0] || frame.DoneAt == 0)
                    continue;
                port.Sink.Deliver(new EthernetFrame(NetGuest.Content(frame, number)));
                port.Sink.Flush();
                return;
            }
        },
        "came twice", "was sent before the reset");

    private void Finds(Action<VirtioSimulation> sabotage, params string[] symptoms) => _runs.Find(seed => new VirtioSimulation(seed, sabotage), symptoms);
}

/// <summary>The simulation gives back what it took from the host.</summary>
[Collection(nameof(Alone))]
public sealed class VirtioSimulationHostTests
{
    [Fact]
    public void Two_hundred_seeds_leave_no_descriptor_and_no_mapping()
    {
        Assert.Null(new VirtioSimulation(1).Run());
        // What other tests left to the finalizers must not hide what this one leaves.
        GC.Collect();
        GC.WaitForPendingFinalizers();
        var (descriptors, mappings) = (Descriptors(), Mappings());
        for (var seed = 2ul; seed <= 201; seed++)
            Assert.Null(new VirtioSimulation(seed).Run());
        Assert.True(Descriptors() <= descriptors, $"{Descriptors() - descriptors} descriptors are left");
        Assert.True(Mappings() <= mappings, $"{Mappings() - mappings} mappings are left");
    }

    private static int Descriptors() => Directory.GetFileSystemEntries("/proc/self/fd").Length;

    private static int Mappings() => File.ReadLines("/proc/self/maps").Count(l => l.Contains("memfd:virtbus-", StringComparison.Ordinal));
}
