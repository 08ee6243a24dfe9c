using System.Diagnostics;
using System.Runtime.CompilerServices;

namespace Virtbus.Tests.Cli;

/// <summary>A runtime folder of a test's own, and the real program run on it.</summary>
public sealed class TestFabric : IAsyncDisposable
{
    public static readonly TimeSpan Deadline = TimeSpan.FromSeconds(60);
    private readonly List<Process> _processes = [];
    private readonly string _folder = Directory.CreateTempSubdirectory("vb").FullName;

    public TestFabric() => Runtime = Path.Combine(_folder, "run");

    /// <summary>The program as its users run it, in machine code, where the whole run has made that; else as it is built with the tests.</summary>
    public static string Program { get; } = Path.GetFullPath(
        Environment.GetEnvironmentVariable("VIRTBUS_TEST_PROGRAM") is { Length: > 0 } program ? program : Path.Combine(AppContext.BaseDirectory, "../../Virtbus.Cli/release/virtbus"));

    /// <summary>Where the first adapter of a manifest is.</summary>
    public const string AdapterPath = "/devices/pci0000:00/0000:00:01.0/0000:01:00.0";

    public static string DemoModules { get; } = Path.Combine(AppContext.BaseDirectory, "demo-modules");

    /// <summary>The modules of samples/tutorial, as they were built in the tree.</summary>
    public static string TutorialModules { get; } = Path.Combine(AppContext.BaseDirectory, "tutorial-modules");

    public string Runtime { get; set; }

    public string ControlSocket => Path.Combine(Runtime, "control.sock");

    /// <summary>A manifest with two parts that bind, one whose probe fails, and one whose probe waits.</summary>
    public static string DemoManifest => $"""
        adapters:
          - {"{"} name: adapter0, model: merlin {"}"}
        devices:
          - {"{"} module: demo, name: part, count: 2, parent: adapter0 {"}"}
          - {"{"} module: demo, name: bad {"}"}
          - {"{"} module: demo, name: later {"}"}
        modules: {DemoModules}
        """;

    public string Write(string name, string text)
    {
        var path = Path.Combine(_folder, name);
        File.WriteAllText(path, text);
        return path;
    }

    public Process Start(params string[] arguments) => StartProgram(Program, arguments);

    /// <summary>Starts another program where the real one would run.</summary>
    public Process StartProgram(string program, params string[] arguments)
    {
        // A shell that runs the tests in the background has them ignore SIGINT, which the program would inherit.
        var process = Process.Start(new ProcessStartInfo("env", ["--default-signal=INT", program, .. arguments])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            UseShellExecute = false,
            WorkingDirectory = _folder,
            Environment = { ["VIRTBUS_RUNTIME"] = Runtime },
        })!;
        _processes.Add(process);
        return process;
    }

    public Task<ProgramRun> RunAsync(params string[] arguments) => RunWithInputAsync("", arguments);

    public Task<ProgramRun> RunWithInputAsync(string input, params string[] arguments) => EndAsync(Start(arguments), input);

    /// <summary>Gives a process its input and waits until it has ended, for as long as any may take or as said.</summary>
    public static async Task<ProgramRun> EndAsync(Process process, string input = "", TimeSpan? within = null)
    {
        using var deadline = new CancellationTokenSource(within ?? Deadline);
        try
        {
            await process.StandardInput.WriteAsync(input.AsMemory(), deadline.Token);
            process.StandardInput.Close();
        }
        catch (IOException)
        {
            // It ended before it had read all, as one does that refuses a value that is too long.
        }
        var output = process.StandardOutput.ReadToEndAsync(deadline.Token);
        var errors = process.StandardError.ReadToEndAsync(deadline.Token);
        await process.WaitForExitAsync(deadline.Token);
        return new ProgramRun(process.ExitCode, await output, await errors);
    }

    /// <summary>Runs the program, which must succeed in silence, and gives its output.</summary>
    public async Task<string> OkAsync(params string[] arguments)
    {
        var run = await RunAsync(arguments);
        Assert.True(run.Code == 0 && (run.Errors.Length == 0 || arguments[0] == "up"), $"virtbus {string.Join(' ', arguments)}: {run}");
        return run.Output;
    }

    /// <summary>Runs the program, which must refuse, and gives what it says.</summary>
    public async Task<string> RefusedAsync(params string[] arguments)
    {
        var run = await RunAsync(arguments);
        // A difference is 1, so trouble is 2, as with diff(1).
        Assert.True(run.Code == (arguments[0] == "diff" ? 2 : 1) && run.Output.Length == 0, $"virtbus {string.Join(' ', arguments)}: {run}");
        Assert.StartsWith("virtbus: ", run.Errors, StringComparison.Ordinal);
        return run.Errors.TrimEnd();
    }

    public Task<string> UpAsync(string manifest, [CallerMemberName] string name = "") => OkAsync("up", Write(name[..Math.Min(name.Length, 40)] + ".yaml", manifest), "--detach");

    /// <summary>Brings a fabric up in a process of its own that logs to its standard error, and waits until all is ready.</summary>
    public async Task<Process> StartUpAsync(string manifest)
    {
        var up = Start("up", Write("m.yaml", manifest));
        await ReadUntilAsync(up, "Next:");
        return up;
    }

    public static async Task ReadUntilAsync(Process process, string line)
    {
        using var deadline = new CancellationTokenSource(Deadline);
        while (await process.StandardOutput.ReadLineAsync(deadline.Token) is { } read)
        {
            if (read.StartsWith(line, StringComparison.Ordinal))
                return;
        }
        Assert.Fail($"'{line}' did not come: {await process.StandardError.ReadToEndAsync(deadline.Token)}");
    }

    /// <summary>Reads what a process logs until a line has a text.</summary>
    public static async Task ReadErrorUntilAsync(Process process, string text)
    {
        using var deadline = new CancellationTokenSource(Deadline);
        while (await process.StandardError.ReadLineAsync(deadline.Token) is { } read)
        {
            if (read.Contains(text, StringComparison.Ordinal))
                return;
        }
        Assert.Fail($"'{text}' did not come.");
    }

    public async ValueTask DisposeAsync()
    {
        if (File.Exists(ControlSocket))
            await RunAsync("down");
        foreach (var process in _processes)
        {
            if (!process.HasExited)
                process.Kill();
            process.Dispose();
        }
        Directory.Delete(_folder, recursive: true);
    }
}
