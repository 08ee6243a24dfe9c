using Virtbus.Platform;
using Virtbus.Virtio.Admin;

namespace Virtbus.Tests.Drivers.Simulation;

/// <summary>The administration queue under seeds. How to replay one: <see cref="SeededRuns"/>. VA-07.</summary>
public sealed class AdminSimulationTests(ITestOutputHelper output)
{
    private readonly SeededRuns _runs = new(output, static (seed, trace) => new AdminSimulation(seed, trace: trace));

    [Fact]
    public void Each_command_ends_and_nothing_late_reaches_free_memory_under_five_hundred_seeds() => _runs.Hold(500);

    [Fact]
    public void Same_seed_gives_the_same_trace() => _runs.Repeat();

    [Fact]
    public void Seeds_reach_what_they_are_for()
    {
        var (done, reset, compared) = (0, 0, 0);
        for (var seed = 1ul; seed <= 100; seed++)
        {
            var run = new AdminSimulation(seed);
            Assert.Null(run.Run());
            (done, reset, compared) = (done + run.Done, reset + run.Reset, compared + run.Compared);
        }

        output.WriteLine($"{done} commands done, {reset} ended by a reset, {compared} compared");
        Assert.True(done > 500 && reset > 50 && compared > 150);
    }

    // Planted bugs.
    [Fact]
    public void Finds_news_that_are_not_told() => Finds(static sim => sim.Monitor.IsDeaf = true, "wait for ever");

    [Fact]
    public void Finds_a_command_that_ends_for_no_reason() => Finds(
        static sim =>
        {
            if (sim.Pending.Exists(static g => g.Command.Opcode == AdminOpcode.VIRTIO_ADMIN_CMD_DEV_MODE_SET))
                sim.Hand?.Admin.EndAll();
        },
        "and there was no reset");

    [Fact]
    public void Finds_an_answer_that_is_another_s() => Finds(
        static sim =>
        {
            if (sim.Pending.Where(static g => g.Command.Opcode == AdminOpcode.VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ).ToList() is [var one, var other, ..])
                sim.Mix(one, other);
        },
        "is not");

    [Fact]
    public void Finds_a_command_that_is_not_done() => Finds(
        static sim =>
        {
            foreach (var member in (ulong[])[1, 2])
                sim.Script.RegistersOf(member).AsSpan().Fill(0xA5);
        },
        "a write that is done is not", "a read has what is not there");

    private void Finds(Action<AdminSimulation> sabotage, params string[] symptoms) => _runs.Find(seed => new AdminSimulation(seed, sabotage), symptoms);
}
