using System.CommandLine;
using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text;
using Microsoft.Extensions.Logging;
using Microsoft.Win32.SafeHandles;
using Virtbus.Cli.Text;
using Virtbus.Daemon;
using Virtbus.Daemon.Api;
using Virtbus.Daemon.Logs;
using Virtbus.Daemon.Manifest;
using Virtbus.Platform;

namespace Virtbus.Cli.Verbs;

internal static class UpVerb
{
    private const string Ready = "ready";

    public static Command Make()
    {
        var manifest = Names.File(new Argument<string?>("MANIFEST") { Description = "A YAML file; the program's default manifest when absent.", Arity = ArgumentArity.ZeroOrOne });
        var detach = new Option<bool>("--detach", "-d") { Description = "Return when all is ready, and leave the fabric running." };
        var detached = new Option<bool>("--detached") { Hidden = true };
        var command = new Command("up", "Bring a fabric up and run it until Ctrl-C, or in the background.") { manifest, detach, detached };
        command.SetAction(async (result, _) =>
        {
            var file = result.GetValue(manifest);
            var output = CommandLine.OutputOf(result);
            if (result.GetValue(detached))
                return await RunDetachedAsync(file);
            return result.GetValue(detach) ? Detach(file, output) : await RunAsync(file, output);
        });
        return command;
    }

    // Shipped with the program, so that a person can look at it and copy it.
    private static string DefaultManifest => Path.Combine(AppContext.BaseDirectory, "manifests", "default.yaml");

    // In the foreground: until a signal comes or someone says 'down'.
    private static async Task<int> RunAsync(string? file, Output output)
    {
        var start = Stopwatch.GetTimestamp();
        var runtime = Prepare();
        var log = new StreamLog(StandardOutput.ErrorStream);
        using var loggers = Loggers(log, LogLevel.Warning);
        using var interrupt = new Interrupt();
        var daemon = await StartAsync(runtime, file, loggers, step => log.TryWrite(Encoding.UTF8.GetBytes($"  {step}\n"), out _), interrupt.Token);
        if (daemon is null)
            return ExitCode.Failed;
        interrupt.Token.Register(daemon.RequestShutdown);
        var status = daemon.Describe();
        try
        {
            output.Print(status, ApiJson.Default.StatusAnswer, w => Welcome(w, status, daemon.View.Tree(), daemon.View.Functions(), Stopwatch.GetElapsedTime(start), isDetached: false));
        }
        catch (OutputException e)
        {
            // Nobody would know that it is there.
            e.Outcome = "The fabric was up and was taken down again.";
            await daemon.StopAsync();
            throw;
        }
        await daemon.StopRequested;
        var clean = await daemon.StopAsync();
        return clean ? ExitCode.Done : ExitCode.Failed;
    }

    // In the background: this process starts another, waits for its word, and ends.
    private static int Detach(string? file, Output output)
    {
        var start = Stopwatch.GetTimestamp();
        var client = new ControlClient(Prepare());
        var program = Environment.ProcessPath ?? throw new VirtbusException(Errno.ENOENT, "The program's own file can't be found. Run 'virtbus up' without --detach.");
        using var child = Process.Start(new ProcessStartInfo(program, ["up", "--detached", .. file is null ? Array.Empty<string>() : [file]])
        {
            UseShellExecute = false,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        }) ?? throw new VirtbusException(Errno.ENOENT, $"{program} can't be started.");
        var errors = child.StandardError;
        var isReady = false;
        while (!isReady && child.StandardOutput.ReadLine() is { } line)
        {
            isReady = line == Ready;
            if (!isReady)
                Console.Error.WriteLine("  " + line);
        }
        if (!isReady)
        {
            var text = errors.ReadToEnd();
            child.WaitForExit();
            Console.Error.Write(text.Length > 0 ? text : $"virtbus: The daemon ended with code {child.ExitCode} before it was ready. {client.Runtime.LogFile} may say why.\n");
            return ExitCode.Failed;
        }
        var answer = client.Ask("GET", "/v1/status");
        try
        {
            output.Print(answer, ApiJson.Default.StatusAnswer, (w, status) =>
                Welcome(w, status, client.Ask("GET", "/v1/topology", ApiJson.Default.IReadOnlyListDeviceAnswer), FunctionVerbs.All(client), Stopwatch.GetElapsedTime(start), isDetached: true));
        }
        catch (OutputException e)
        {
            e.Outcome = "The fabric is up; 'virtbus down' ends it.";
            throw;
        }
        return ExitCode.Done;
    }

    // The other process. Its standard output is a pipe for steps and the word that all is ready; then it is on its own.
    private static async Task<int> RunDetachedAsync(string? file)
    {
        ProcessSession.Begin();
        var runtime = Prepare();
        var isDetached = 0;
        // What the runtime says of its own end goes to the file that is written to.
        using var log = new LogFile(runtime.LogFile, begun: () =>
        {
            if (Volatile.Read(ref isDetached) != 0)
                ProcessSession.RedirectStandardStreams(runtime.LogFile);
        });
        using var loggers = Loggers(log, LogLevel.Information);
        using var interrupt = new Interrupt();
        FabricDaemon? daemon;
        // Not the console: that would keep a copy of the descriptor open.
        using (var pipe = new FileStream(new SafeFileHandle(1, ownsHandle: false), FileAccess.Write, 0))
        {
            var ready = 0;
            using var parentGone = new CancellationTokenSource();
            ServiceThread.Start("parent watch", () =>
            {
                // The parent holds the other end until it has heard that all is ready.
                using var input = new FileStream(new SafeFileHandle(0, ownsHandle: false), FileAccess.Read, 0);
                input.ReadByte();
                if (Volatile.Read(ref ready) == 0)
                    interrupt.Cancel();
            });
            daemon = await StartAsync(runtime, file, loggers, step => Tell(pipe, step, Volatile.Read(ref ready)), interrupt.Token);
            if (daemon is null)
                return ExitCode.Failed;
            Tell(pipe, Ready, 0);
            Volatile.Write(ref ready, 1);
        }
        ProcessSession.RedirectStandardStreams(runtime.LogFile);
        Volatile.Write(ref isDetached, 1);
        interrupt.Token.Register(daemon.RequestShutdown);
        await daemon.StopRequested;
        return await daemon.StopAsync() ? ExitCode.Done : ExitCode.Failed;
    }

    // Once all is ready the parent is gone; steps of going down have no listener.
    private static void Tell(FileStream parent, string line, int isReady)
    {
        if (isReady == 0)
            parent.Write(Encoding.UTF8.GetBytes(line + "\n"));
    }

    private static RuntimeFolder Prepare()
    {
        HostLimits.Check(manifest: null);
        var runtime = RuntimeFolder.FromEnvironment();
        runtime.Prepare();
        return runtime;
    }

    private static async Task<FabricDaemon?> StartAsync(RuntimeFolder runtime, string? file, ILoggerFactory loggers, Action<string> progress, CancellationToken interrupted)
    {
        try
        {
            var manifest = ManifestReader.ReadFile(file ?? DefaultManifest);
            HostLimits.Check(manifest);
            return await FabricDaemon.StartAsync(
                new FabricDaemonOptions { Runtime = runtime, Manifest = manifest, ManifestName = file ?? "the default manifest", LoggerFactory = loggers, Progress = progress },
                interrupted);
        }
        catch (OperationCanceledException) when (interrupted.IsCancellationRequested)
        {
            return null;
        }
    }

    private static LoggerFactory Loggers(ILogOutput output, LogLevel lowest)
    {
        var loggers = new LoggerFactory(
            [new LineLoggerProvider(output, TimeProvider.System, lowest)],
            // A line for each step of each request would bury the fabric's own.
            new LoggerFilterOptions { MinLevel = lowest, Rules = { new LoggerFilterRule(null, "Microsoft", LogLevel.Warning, null) } });
        FabricDaemon.PrepareProcess(loggers);
        return loggers;
    }

    private static void Welcome(TextWriter writer, StatusAnswer status, IReadOnlyList<DeviceAnswer> tree, IReadOnlyList<FunctionAnswer> functions, TimeSpan took, bool isDetached)
    {
        writer.WriteLine($"Fabric up in {took.TotalMilliseconds:F0} ms, process {status.Pid}: {status.Devices} devices, {status.Bound} bound, {status.Modules} modules.");
        writer.WriteLine();
        DeviceTree.Write(writer, tree);
        writer.WriteLine();
        if (status.Sockets.Count > 0)
        {
            var table = new Table("SOCKET OF", "PROTOCOL", "PATH");
            foreach (var socket in status.Sockets)
                table.Add(Sockets.Title(socket), socket.Protocol, socket.Path);
            table.WriteTo(writer);
            writer.WriteLine();
        }
        // What was defined to last and is not back.
        FunctionAnswer[] missing = [.. functions.Where(static f => f.Problem is not null)];
        foreach (var function in missing)
            writer.WriteLine($"Function {function.Name} is {function.State}: {function.Problem}");
        if (missing.Length > 0)
            writer.WriteLine();
        writer.WriteLine("Next:");
        writer.WriteLine("  ./virtbus tree              the devices again");
        if (status.Sockets.Where(Sockets.IsForGuests).ToArray() is [var first, ..])
            writer.WriteLine($"  ./virtbus vm {first.Device,-15}a virtual machine with it");
        if (status.Sockets.FirstOrDefault(s => s.Protocol == Sockets.Console) is { } console)
            writer.WriteLine($"  ./virtbus console {console.Device,-10}what its serial port says, and your words to it");
        writer.WriteLine("  ./virtbus attr get /        all that can be read and written");
        writer.WriteLine("  ./virtbus monitor           events as they happen");
        writer.WriteLine($"  ./virtbus down              take it down{(isDetached ? "" : "; Ctrl-C here does too")}");
    }

    /// <summary>Turns the signals that end a program into a token.</summary>
    private sealed class Interrupt : IDisposable
    {
        private readonly CancellationTokenSource _source = new();
        private readonly PosixSignalRegistration[] _registrations;

        public Interrupt() => _registrations = [.. new[] { PosixSignal.SIGINT, PosixSignal.SIGTERM, PosixSignal.SIGHUP, PosixSignal.SIGQUIT }.Select(s =>
            PosixSignalRegistration.Create(s, context =>
            {
                context.Cancel = true;
                _source.Cancel();
            }))];

        public CancellationToken Token => _source.Token;

        public void Cancel() => _source.Cancel();

        public void Dispose()
        {
            foreach (var registration in _registrations)
                registration.Dispose();
        }
    }
}
