using System.Diagnostics;
using System.Text.Json;

namespace Virtbus.Tests.Cli;

public sealed class UpAndDownTests
{
    private static readonly TimeSpan TimeToEnd = TimeSpan.FromSeconds(2);

    [Fact]
    public async Task Detached_up_returns_when_all_is_ready_and_down_leaves_nothing()
    {
        await using var fabric = new TestFabric();
        var text = await fabric.UpAsync(TestFabric.DemoManifest);
        Assert.Contains("Next:", text, StringComparison.Ordinal);
        Assert.Contains("cli_demo.part", text, StringComparison.Ordinal);
        var status = JsonDocument.Parse(await File.ReadAllTextAsync(Path.Combine(fabric.Runtime, "lock"))).RootElement;
        using var daemon = Process.GetProcessById(status.GetProperty("pid").GetInt32());
        Assert.Matches("^Fabric of process [0-9]+ down in [0-9]+ ms\\.\n$", await fabric.OkAsync("down"));
        Assert.True(daemon.HasExited || IsZombie(daemon.Id));
        Assert.Equal(["daemon.log", "lock"], Directory.GetFileSystemEntries(fabric.Runtime).Select(Path.GetFileName).Order(StringComparer.Ordinal));
        Assert.Equal(0, new FileInfo(Path.Combine(fabric.Runtime, "lock")).Length);
    }

    [Fact]
    public async Task A_write_to_the_tree_takes_a_fabric_down_as_down_does()
    {
        await using var fabric = new TestFabric();
        var up = await fabric.StartUpAsync(TestFabric.DemoManifest);
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        const string shutdown = "/kernel/fabric/shutdown";
        Assert.Contains("'0' is not 1. Write 1 to take the fabric down.", await fabric.RefusedAsync("attr", "set", shutdown, "0"), StringComparison.Ordinal);
        await fabric.OkAsync("attr", "set", shutdown, "1");
        await up.WaitForExitAsync(deadline.Token);
        Assert.Equal(0, up.ExitCode);
        Assert.Equal(["lock"], Directory.GetFileSystemEntries(fabric.Runtime).Select(Path.GetFileName));
    }

    [Theory]
    [InlineData("INT")]
    [InlineData("TERM")]
    public async Task A_signal_takes_a_fabric_down_within_two_seconds(string signal)
    {
        await using var fabric = new TestFabric();
        var up = await fabric.StartUpAsync(TestFabric.DemoManifest);
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        var start = Stopwatch.GetTimestamp();
        using (var kill = Process.Start("kill", ["-" + signal, $"{up.Id}"]))
            await kill.WaitForExitAsync(deadline.Token);
        await up.WaitForExitAsync(deadline.Token);
        Assert.InRange(Stopwatch.GetElapsedTime(start), TimeSpan.Zero, TimeToEnd);
        Assert.Equal(0, up.ExitCode);
        Assert.Equal(["lock"], Directory.GetFileSystemEntries(fabric.Runtime).Select(Path.GetFileName));
    }

    [Fact]
    public async Task A_fabric_in_the_foreground_ends_when_told_to()
    {
        await using var fabric = new TestFabric();
        var up = fabric.Start("up", fabric.Write("m.yaml", TestFabric.DemoManifest), "-j");
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        var status = JsonDocument.Parse((await up.StandardOutput.ReadLineAsync(deadline.Token))!).RootElement;
        Assert.Equal(("ready", up.Id), (status.GetProperty("state").GetString(), status.GetProperty("pid").GetInt32()));
        await fabric.OkAsync("down");
        await up.WaitForExitAsync(deadline.Token);
        Assert.Equal(0, up.ExitCode);
    }

    [Fact]
    public async Task Errors_of_the_daemon_are_shown_by_a_detached_up()
    {
        await using var fabric = new TestFabric();
        var manifest = fabric.Write("bad.yaml", "adapters:\n  - { name: a, model: eagle }\n  - { name: b }\n");
        Assert.Equal(
            $"virtbus: {manifest}:2:23: adapters[0].model: 'eagle' is not right here. Write merlin or harrier.\n" +
            $"virtbus: {manifest}:3:5: adapters[1]: an adapter has no 'model'. Add it: the make, merlin or harrier.",
            await fabric.RefusedAsync("up", manifest, "--detach"));
        Assert.Equal($"virtbus: Manifest {manifest}.not does not exist. Name a file, or none for the default manifest.", await fabric.RefusedAsync("up", manifest + ".not"));
        Assert.False(File.Exists(fabric.ControlSocket));
    }

    [Fact]
    public async Task What_can_not_be_made_is_told_at_its_line_and_leaves_nothing()
    {
        await using var fabric = new TestFabric();
        // A word that is right in a manifest, and none of the provider's.
        var manifest = fabric.Write("m.yaml", "adapters:\n  - { name: a, model: merlin }\nfunctions:\n  - { name: f, simulated: nonesuch }\n");
        var run = await fabric.RunAsync("up", manifest, "--detach");
        Assert.Equal(1, run.Code);
        Assert.Contains($"virtbus: {manifest}:4:27: ", run.Errors, StringComparison.Ordinal);
        Assert.False(File.Exists(fabric.ControlSocket));
    }

    [Fact]
    public async Task Without_a_fabric_every_verb_says_how_to_start_one()
    {
        await using var fabric = new TestFabric();
        foreach (var verb in new[] { "down", "tree", "device list", "driver list", "bus list", "module list", "attr get /", "monitor", "vm disk0" })
            Assert.Equal($"virtbus: No fabric is running in {fabric.Runtime}. Start one with 'virtbus up'.", await fabric.RefusedAsync(verb.Split(' ')));
    }

    // Nobody may be there to take the end of a process whose parent has gone.
    private static bool IsZombie(int pid) => File.ReadAllText($"/proc/{pid}/stat").Contains(") Z ", StringComparison.Ordinal);
}
