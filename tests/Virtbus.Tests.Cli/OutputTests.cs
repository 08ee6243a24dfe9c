using System.Diagnostics;

namespace Virtbus.Tests.Cli;

/// <summary>Standard output that does not take what a verb prints.</summary>
public sealed class OutputTests(OutputTests.RunningFabric running) : IClassFixture<OutputTests.RunningFabric>
{
    private const int BrokenPipe = 141;
    private const string Full = "virtbus: Standard output can't be written: No space left on device. Make room there, or send it elsewhere.";
    private const string Closed = "virtbus: Standard output can't be written: Bad file descriptor. Open it, or send it to /dev/null.";

    private readonly TestFabric _fabric = running.Fabric;

    public sealed class RunningFabric : IAsyncLifetime
    {
        public TestFabric Fabric { get; } = new();

        public async ValueTask InitializeAsync() => await Fabric.UpAsync(TestFabric.DemoManifest, "output");

        public ValueTask DisposeAsync() => Fabric.DisposeAsync();
    }

    public static TheoryData<string> Telling { get; } =
    [
        "tree", "device list", "device show demo.part.0 -j", "driver list -jp", "bus list", "module list", "attr get /bus", "monitor --history",
        "completion bash", "completion fish -j", "function sources", "--help", "device --help", "--version", "[suggest:1] virtbus",
    ];

    [Theory]
    [MemberData(nameof(Telling))]
    public async Task Full_output_is_one_sentence(string line) => Assert.Equal(new ProgramRun(1, "", Full + "\n"), await ShellAsync($"{line} >/dev/full"));

    [Theory]
    [MemberData(nameof(Telling))]
    public async Task Closed_output_is_one_sentence(string line)
    {
        Assert.Equal(new ProgramRun(1, "", Closed + "\n"), await ShellAsync($"{line} >&-"));
        Assert.Equal(new ProgramRun(1, "", ""), await ShellAsync($"{line} <&- >&- 2>&-"));
    }

    [Theory]
    [MemberData(nameof(Telling))]
    public async Task Reader_that_has_gone_ends_a_verb_in_silence(string line) =>
        // The reader is gone for sure before the verb writes.
        Assert.Equal(new ProgramRun(BrokenPipe, "", ""), await ShellAsync($"{line} >&4", "exec 4> >(exit 0); wait $!; "));

    [Fact]
    public async Task Work_that_could_not_be_told_is_done_and_said_to_be()
    {
        Assert.Equal(new ProgramRun(1, "", Full + " What was asked for is done.\n"), await ShellAsync("driver unbind demo.part.1 >/dev/full"));
        Assert.Contains("state     unbound\n", await _fabric.OkAsync("device", "show", "demo.part.1"), StringComparison.Ordinal);
        Assert.Equal(new ProgramRun(1, "", Closed + " What was asked for is done.\n"), await ShellAsync("-j driver bind demo.part.1 cli_demo.part >&-"));
        Assert.Contains("state     bound\n", await _fabric.OkAsync("device", "show", "demo.part.1"), StringComparison.Ordinal);
        // Nothing to print, nothing to complain of.
        Assert.Equal(new ProgramRun(0, "", ""), await ShellAsync("attr set /bus/vdpa/drivers_autoprobe 1 >/dev/full"));
    }

    [Fact]
    public async Task Monitor_ends_when_its_reader_goes()
    {
        // 'head' takes a line and leaves; the next event finds nobody.
        var run = await ShellAsync("", "exec 4> >(head -n 1 >/dev/null; exit 0); reader=$!; ", "monitor --history >&4 & verb=$!; wait $reader; \"$0\" attr set /bus/auxiliary/devices/demo.part.0/uevent change; wait $verb");
        Assert.Equal(new ProgramRun(BrokenPipe, "", ""), run);
    }

    [Fact]
    public async Task Standard_error_that_takes_nothing_changes_no_outcome()
    {
        foreach (var errors in new[] { "2>/dev/full", "2>&-" })
        {
            Assert.Equal(new ProgramRun(1, "", ""), await ShellAsync($"device show nobody {errors}"));
            Assert.Equal(new ProgramRun(2, "", ""), await ShellAsync($"tre {errors}"));
            Assert.Equal(0, (await ShellAsync($"tree {errors}")).Code);
            await using var other = new TestFabric();
            var up = await ShellAsync(other, $"up '{other.Write("m.yaml", TestFabric.DemoManifest)}' --detach {errors}");
            Assert.Equal((0, ""), (up.Code, up.Errors));
            await other.OkAsync("down");
        }
    }

    [Fact]
    public async Task Up_that_can_not_tell_says_what_became_of_the_fabric()
    {
        await using var fabric = new TestFabric();
        var manifest = fabric.Write("m.yaml", "{}");
        var run = await ShellAsync(fabric, $"up '{manifest}' >/dev/full");
        Assert.Equal((1, Full + " The fabric was up and was taken down again."), (run.Code, run.Errors.TrimEnd().Split('\n')[^1]));
        Assert.False(File.Exists(fabric.ControlSocket));
        run = await ShellAsync(fabric, $"up '{manifest}' --detach >/dev/full");
        Assert.Equal((1, Full + " The fabric is up; 'virtbus down' ends it."), (run.Code, run.Errors.TrimEnd().Split('\n')[^1]));
        Assert.Equal(new ProgramRun(1, "", Full + " What was asked for is done.\n"), await ShellAsync(fabric, "down >/dev/full"));
        Assert.False(File.Exists(fabric.ControlSocket));
    }

    [Fact]
    public async Task Output_that_several_verbs_share_is_appended_to()
    {
        var run = await ShellAsync("", "exec >all; ", "bus list; \"$0\" bus list; cat all >&2");
        Assert.Equal(2, run.Errors.Split("NAME ").Length - 1);
    }

    [Theory]
    [InlineData("<&-", "There is no value, and standard input is closed. Write the value as an argument.")]
    [InlineData("</", "Standard input, which has the value, can't be read: ")]
    public async Task Value_that_can_not_be_read_is_one_sentence(string input, string says)
    {
        var run = await ShellAsync($"attr set /bus/vdpa/drivers_autoprobe {input}");
        Assert.Equal((1, ""), (run.Code, run.Output));
        Assert.StartsWith("virtbus: " + says, run.Errors, StringComparison.Ordinal);
        Assert.Equal(1, run.Errors.Count(c => c == '\n'));
    }

    [Fact]
    public async Task Full_disk_under_the_runtime_folder_is_one_sentence()
    {
        await using var fabric = new TestFabric();
        Directory.CreateDirectory(fabric.Runtime);
        using (var mount = Process.Start(new ProcessStartInfo("mount", ["-t", "tmpfs", "-o", "size=4k,mode=700", "none", fabric.Runtime]) { RedirectStandardError = true, UseShellExecute = false })!)
        {
            await mount.EndsAsync();
            Assert.SkipWhen(mount.ExitCode != 0, "Needs to mount a file system, which takes root.");
        }
        try
        {
            await File.WriteAllBytesAsync(Path.Combine(fabric.Runtime, "fills"), new byte[4096], TestContext.Current.CancellationToken);
            foreach (var way in new[] { "--detach", "-j" })
            {
                var run = await fabric.RunAsync("up", fabric.Write("m.yaml", "{}"), way);
                Assert.Equal((1, ""), (run.Code, run.Output));
                Assert.Equal($"virtbus: Runtime folder {fabric.Runtime} takes no lock: No space left on device : '{fabric.Runtime}/lock'. Make room there, or set VIRTBUS_RUNTIME to another folder.", run.Errors.TrimEnd());
            }
        }
        finally
        {
            using var unmount = Process.Start("umount", ["-l", fabric.Runtime]);
            await unmount.EndsAsync();
        }
    }

    private Task<ProgramRun> ShellAsync(string line, string before = "", string? command = null) => ShellAsync(_fabric, line, before, command);

    private static Task<ProgramRun> ShellAsync(TestFabric fabric, string line, string before = "", string? command = null) =>
        TestFabric.EndAsync(fabric.StartProgram("bash", "-c", $"{before}\"$0\" {command ?? line.Replace("[suggest:1]", "'[suggest:1]'", StringComparison.Ordinal)}", TestFabric.Program));
}
