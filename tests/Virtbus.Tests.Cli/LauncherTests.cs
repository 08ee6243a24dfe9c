using System.Diagnostics;

namespace Virtbus.Tests.Cli;

/// <summary>The script ./virtbus, in a source tree of its own, with a 'dotnet' that makes programs which say who they are.</summary>
public sealed class LauncherTests : IAsyncDisposable
{
    private const UnixFileMode Executable = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute;

    // Stands for the compiler: prints what it prints, and makes a program. $BREAK says how it fails.
    private const string Dotnet = """
        #!/bin/sh
        [ "$1" = --version ] && { echo 10.0.100; exit; }
        echo "$*" >>"$ROOT/builds"
        while [ "$1" != -o ]; do shift; done
        case "$BREAK" in
          syntax) echo "$ROOT/src/Cli/A.cs(1,2): error CS1002: ; expected [$ROOT/src/Cli/A.csproj]"; exit 1 ;;
          crash) echo 'Unhandled exception: no space'; exit 134 ;;
          network) echo "$ROOT/src/Cli/A.csproj : error NU1301: Unable to load the service index for source https://nowhere"; exit 1 ;;
        esac
        echo "  Restored $ROOT/src/Below/Below.csproj (in 1 ms)."
        echo "  Restored $ROOT/src/Cli/A.csproj (in 1 ms)."
        echo "  Below -> $ROOT/Below.dll"
        echo "$ROOT/src/Cli/A.cs(9,9): warning CS9999: careful [$ROOT/src/Cli/A.csproj]"
        echo "  A -> $ROOT/A.dll"
        mkdir -p "$2"
        printf '#!/bin/sh\nread -r made <"${0%%/*}/made"\necho "$made: $*"\n' >"$2/virtbus"
        chmod +x "$2/virtbus"
        cp "$ROOT/src/version" "$2/made"
        echo "  A -> $2/"
        """;

    private readonly TestFabric _fabric = new();
    private readonly string _root;

    public LauncherTests()
    {
        _root = Path.GetDirectoryName(_fabric.Runtime)!;
        foreach (var folder in new[] { "src/Cli", "src/Below", "samples", "manifests", "tools", "bin" })
            Directory.CreateDirectory(Path.Combine(_root, folder));
        File.Copy(Path.Combine(Source(), "virtbus"), At("virtbus"));
        File.WriteAllText(At("tools/test.sh"), "#!/bin/sh\necho tests \"$@\"\n");
        File.WriteAllText(At("bin/dotnet"), Dotnet);
        foreach (var program in new[] { "virtbus", "tools/test.sh", "bin/dotnet" })
            File.SetUnixFileMode(At(program), Executable);
        File.WriteAllText(At("src/Cli/A.csproj"), "");
        File.WriteAllText(At("src/Below/Below.csproj"), "");
        Edit("one");
    }

    public ValueTask DisposeAsync() => _fabric.DisposeAsync();

    [Fact]
    public async Task First_verb_builds_and_shows_each_step()
    {
        Assert.Equal(new ProgramRun(0, "", ""), await RunAsync("[suggest:1] x"));
        var run = await RunAsync("tree -j");
        Assert.Equal((0, "one: tree -j\n"), (run.Code, run.Output));
        var lines = run.Errors.TrimEnd().Split('\n');
        Assert.Equal("Building virtbus for the first time, 3 steps: a minute or two ...", lines[0]);
        Assert.Matches(@"^  \[0/3\] NuGet packages are there, [0-9]+ s$", lines[1]);
        Assert.Matches(@"^  \[1/3\] Below, [0-9]+ s$", lines[2]);
        Assert.Contains("warning CS9999: careful", lines[3], StringComparison.Ordinal);
        Assert.Matches(@"^  \[2/3\] A, [0-9]+ s$", lines[4]);
        Assert.Matches(@"^  \[3/3\] machine code, [0-9]+ s$", lines[5]);
        Assert.Matches("^Built in [0-9]+ s.$", lines[6]);
        Assert.Equal(7, lines.Length);
    }

    [Fact]
    public async Task Up_alone_builds_what_is_stale_and_other_verbs_when_told_to()
    {
        Assert.Equal("one: up\n", (await RunAsync("up")).Output);
        Assert.Equal(new ProgramRun(0, "one: up\n", ""), await RunAsync("up"));
        Edit("two");
        foreach (var verb in new[] { "tree", "-j tree", "vm disk0 -- up", "attr set /x up", "--version", "[suggest:1] x" })
            Assert.Equal(new ProgramRun(0, $"one: {verb}\n", ""), await RunAsync(verb));
        Assert.Equal("two: tree\n", (await RunAsync("--build tree")).Output);
        Edit("three");
        Assert.Equal("three: -j up m.yaml\n", (await RunAsync("-j up m.yaml")).Output);
        Edit("four");
        Assert.Equal("", (await RunAsync("--build")).Output);
        Assert.Equal(new ProgramRun(0, "four: tree\n", ""), await RunAsync("tree"));
        Assert.Equal(4, (await File.ReadAllLinesAsync(At("builds"), TestContext.Current.CancellationToken)).Length);
        Assert.Equal("tests a b\n", (await RunAsync("test a b")).Output);
    }

    [Fact]
    public async Task Broken_edit_keeps_nobody_from_a_running_fabric_and_up_starts_nothing_old()
    {
        await RunAsync("up");
        Edit("two");
        var up = await RunAsync("up", "BREAK=syntax");
        Assert.Equal((1, ""), (up.Code, up.Output));
        Assert.Contains("error CS1002: ; expected", up.Errors, StringComparison.Ordinal);
        Assert.EndsWith($"virtbus: The build failed. The lines above say why, and {At("artifacts/program/build.log")} has all that it printed. A fabric that runs can be reached as before: only 'up' and 'test' build.\n", up.Errors, StringComparison.Ordinal);
        Assert.Equal(new ProgramRun(0, "one: down\n", ""), await RunAsync("down", "BREAK=syntax"));
        Assert.Equal(1, (await RunAsync("--build tree", "BREAK=syntax")).Code);
        // What is no error of a compiler is shown too.
        Assert.Contains("\nUnhandled exception: no space\nvirtbus: The build failed.", (await RunAsync("up", "BREAK=crash")).Errors, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Packages_that_can_not_be_had_are_one_sentence()
    {
        var run = await RunAsync("tree", "BREAK=network");
        Assert.Equal((1, ""), (run.Code, run.Output));
        Assert.DoesNotContain("NU1301", run.Errors, StringComparison.Ordinal);
        Assert.Contains("virtbus: The build needs NuGet packages ", run.Errors, StringComparison.Ordinal);
        Assert.Contains("Connect to the network for the first build, or set NUGET_PACKAGES to a folder that has them.", run.Errors, StringComparison.Ordinal);
        Assert.Equal(2, run.Errors.Count(c => c == '\n'));
    }

    [Fact]
    public async Task Verbs_take_the_program_of_the_fabric_that_runs()
    {
        await RunAsync("up");
        var old = (await File.ReadAllTextAsync(At("artifacts/program/current"), TestContext.Current.CancellationToken)).Trim();
        // A program that is no script, so that the process has the folder's name: it prints the files that it is given.
        File.Copy("/bin/cat", Path.Combine(old, "virtbus"), overwrite: true);
        var daemon = _fabric.StartProgram(Path.Combine(old, "virtbus"));
        Directory.CreateDirectory(_fabric.Runtime);
        await File.WriteAllTextAsync(Path.Combine(_fabric.Runtime, "lock"), $$"""{"pid":{{daemon.Id}},"since":"now"}""", TestContext.Current.CancellationToken);
        Edit("two");
        Assert.Equal("two: tree\n", (await RunAsync("--build tree")).Output);
        Assert.Equal(new ProgramRun(0, "two\n", ""), await RunAsync(At("src/version")));
        Assert.Equal(new ProgramRun(0, "two: up\n", ""), await RunAsync("up"));
        await TestFabric.EndAsync(daemon);
        Assert.Equal(new ProgramRun(0, "two: tree\n", ""), await RunAsync("tree"));
    }

    [Fact]
    public async Task Streams_that_are_closed_break_nothing()
    {
        Assert.Equal(0, (await RunAsync("--build <&- >&- 2>&-")).Code);
        Assert.Equal(new ProgramRun(0, "one: tree\n", ""), await RunAsync("tree <&- 2>&-"));
    }

    [Theory]
    [InlineData("tree", "-n 64", "virtbus: The limit of open files (ulimit -n) is 64, and this needs 128. Raise it with 'ulimit -n 128'")]
    [InlineData("up", "-n 128", "virtbus: The limit of open files (ulimit -n) is 128, and this needs 512. Raise it with 'ulimit -n 512'")]
    [InlineData("tree", "-v 1000000", "virtbus: The limit of address space in KiB (ulimit -v) is 1000000, and this needs 2097152. Raise it with 'ulimit -v 2097152'")]
    [InlineData("up", "-f 0", "virtbus: The limit of file size in KiB (ulimit -f) is 0, and this needs 65536. Raise it with 'ulimit -f 65536'")]
    public async Task Limit_below_which_the_runtime_does_not_start_is_one_sentence(string verb, string limit, string says)
    {
        await RunAsync("up");
        var run = await RunAsync(verb, $"ulimit {limit};");
        Assert.Equal((1, ""), (run.Code, run.Output));
        Assert.StartsWith(says, run.Errors, StringComparison.Ordinal);
        Assert.Equal(1, run.Errors.Count(c => c == '\n'));
    }

    private string At(string path) => Path.Combine(_root, path);

    // Newer than anything that was built before.
    private void Edit(string version)
    {
        File.WriteAllText(At("src/version"), version + "\n");
        if (File.Exists(At("artifacts/program/current")))
            File.SetLastWriteTimeUtc(At("src/version"), File.GetLastWriteTimeUtc(At("artifacts/program/current")).AddMilliseconds(1));
        // Whatever else was just made, such as the folders, is older than the next build.
        File.SetLastWriteTimeUtc(At("src"), DateTime.UnixEpoch.AddDays(1));
    }

    private Task<ProgramRun> RunAsync(string arguments, string before = "") =>
        TestFabric.EndAsync(_fabric.StartProgram("bash", "-c", $"export ROOT='{_root}' PATH='{_root}/bin':$PATH; {before} '{_root}/virtbus' {arguments.Replace("[suggest:1]", "'[suggest:1]'", StringComparison.Ordinal)}"));

    private static string Source()
    {
        var folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "Virtbus.slnx")))
            folder = Path.GetDirectoryName(folder) ?? throw new InvalidOperationException("The source is not above the tests.");
        return folder;
    }
}
