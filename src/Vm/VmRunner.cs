using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using Virtbus.Platform;

namespace Virtbus.Vm;

/// <summary>
/// Boots a small Linux guest with our devices plugged in, and gives the user a shell in it or runs a command. One run an object.
/// </summary>
public sealed class VmRunner
{
    private const string UpMark = "virtbus: the guest is up";
    private const int ErrorLines = 15;

    // What the guest may take from the end of the command to power off: it only has to leave.
    private static readonly TimeSpan PowerOffDeadline = TimeSpan.FromSeconds(10);

    private readonly VmOptions _options;
    private readonly IProgress<string>? _progress;
    private readonly StringBuilder _console = new();
    private readonly StringBuilder _messages = new();
    private readonly TaskCompletionSource _up = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>Makes a runner.</summary>
    /// <param name="options">What to run.</param>
    /// <param name="progress">Gets a line for each step that takes time (fetching a kernel, making a QEMU), or null.</param>
    public VmRunner(VmOptions options, IProgress<string>? progress = null)
    {
        _options = options;
        _progress = progress;
    }

    /// <summary>The process id of QEMU while it runs, for a test or a debugger; 0 before.</summary>
    public int QemuProcessId { get; private set; }

    /// <summary>Completes when the guest has booted and the command starts; never for a shell.</summary>
    public Task Up => _up.Task;

    /// <summary>
    /// Runs the guest to its end and returns the exit code of the command, or 0 for a shell. Throws a <see cref="VirtbusException"/>:
    /// EINVAL or ENOENT for options that cannot work, EIO with the last lines of the console when QEMU or the guest died, ETIMEDOUT at a
    /// deadline. Throws <see cref="OperationCanceledException"/> on cancellation and on SIGINT, SIGTERM and SIGHUP, which it takes while
    /// it runs. However it ends, QEMU is gone and no file is left.
    /// </summary>
    /// <param name="cancellation">Kills the guest.</param>
    public async Task<int> RunAsync(CancellationToken cancellation)
    {
        _options.Check();
        VmAccelerator accelerator = _options.ResolveAccelerator(Environment.GetEnvironmentVariable);
        using CancellationTokenSource stop = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        void Stop(PosixSignalContext signal)
        {
            signal.Cancel = true;
            stop.Cancel();
        }

        using PosixSignalRegistration interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, Stop);
        using PosixSignalRegistration terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, Stop);
        using PosixSignalRegistration hangUp = PosixSignalRegistration.Create(PosixSignal.SIGHUP, Stop);

        (QemuProgram qemu, GuestImage image) = await PrepareAsync(_options.Devices.Select(device => device.Kind), _options.KernelSuite, _progress, stop.Token);
        return _options.Command.Count == 0
            ? await RunShellAsync(qemu, accelerator, image, stop.Token)
            : await RunCommandAsync(qemu, accelerator, image, stop.Token);
    }

    /// <summary>
    /// Finds or makes what a guest with such devices takes (QEMU, kernel, initramfs), so that a run starts at once. Throws a
    /// <see cref="VirtbusException"/> that says what is missing and how to get it.
    /// </summary>
    /// <param name="kinds">The kinds of devices that the guest is to have.</param>
    /// <param name="kernelSuite">The kernel, as <see cref="VmOptions.KernelSuite"/>.</param>
    /// <param name="progress">Gets a line for each step that takes time, or null.</param>
    /// <param name="cancellation">Ends the making; nothing half-made stays.</param>
    public static async Task PrepareAsync(
        IReadOnlyCollection<VmDeviceKind> kinds, string? kernelSuite, IProgress<string>? progress, CancellationToken cancellation) =>
        await PrepareAsync((IEnumerable<VmDeviceKind>)kinds, kernelSuite, progress, cancellation);

    /// <summary>
    /// The command line of a guest with a shell on the terminal that it is run from, and nothing of ours around it. Finds or makes what it needs,
    /// and runs nothing. Throws as <see cref="RunAsync"/> does for options that cannot work.
    /// </summary>
    /// <param name="cancellation">Ends the making of what it needs.</param>
    public async Task<VmCommandLine> GetCommandLineAsync(CancellationToken cancellation)
    {
        _options.Check();
        VmAccelerator accelerator = _options.ResolveAccelerator(Environment.GetEnvironmentVariable);
        (QemuProgram qemu, GuestImage image) = await PrepareAsync(_options.Devices.Select(device => device.Kind), _options.KernelSuite, _progress, cancellation);
        string[] arguments = [.. qemu.Command, .. QemuArguments.Machine(_options, accelerator, image, ShellKernel(UserTerminal.Describe())), .. QemuArguments.Terminal()];
        return new VmCommandLine(arguments, image.Kernel, image.Initramfs, CacheFolder.FromEnvironment(null).Root);
    }

    private static string ShellKernel(string terminal) => $"virtbus_mode=shell {terminal}";

    private static async Task<(QemuProgram Qemu, GuestImage Image)> PrepareAsync(
        IEnumerable<VmDeviceKind> kinds, string? kernelSuite, IProgress<string>? progress, CancellationToken cancellation)
    {
        VmDeviceKind[] distinct = [.. kinds.Distinct()];
        QemuProgram qemu = await new QemuFinder(progress).FindAsync([.. distinct.Select(QemuFinder.DeviceName)], cancellation);
        bool isPci = distinct.Contains(VmDeviceKind.VfioUserPci);
        return (qemu, await GuestImage.GetAsync(CacheFolder.FromEnvironment(progress), kernelSuite, isPci, progress, cancellation));
    }

    private async Task<int> RunShellAsync(QemuProgram qemu, VmAccelerator accelerator, GuestImage image, CancellationToken cancellation)
    {
        using UserTerminal terminal = UserTerminal.Save();
        IEnumerable<string> arguments = QemuArguments.Machine(_options, accelerator, image, ShellKernel(terminal.KernelArguments)).Concat(QemuArguments.Terminal());
        await using QemuProcess running = await QemuProcess.StartAsync(qemu, arguments, redirect: false);
        QemuProcessId = running.Id;
        int code = await running.Exited.WaitAsync(cancellation);
        return code == 0 ? 0 : throw new VirtbusException(Errno.EIO, $"QEMU '{qemu.Path}' ended with code {code}. It says why above.");
    }

    private async Task<int> RunCommandAsync(QemuProgram qemu, VmAccelerator accelerator, GuestImage image, CancellationToken cancellation)
    {
        string run = Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(16));
        string SocketName(string port) => $"virtbus-{run}-{port}";
        Dictionary<string, PortListener> listeners = [];
        try
        {
            foreach (string port in QemuArguments.Ports)
                listeners[port] = new PortListener(SocketName(port));
            IEnumerable<string> arguments = QemuArguments.Machine(_options, accelerator, image, "virtbus_mode=command")
                .Concat(QemuArguments.CommandPorts(SocketName));
            await using QemuProcess running = await QemuProcess.StartAsync(qemu, arguments, redirect: true);
            QemuProcessId = running.Id;
            return await FollowAsync(running, listeners, run, cancellation);
        }
        finally
        {
            foreach (PortListener listener in listeners.Values)
                listener.Dispose();
        }
    }

    private async Task<int> FollowAsync(
        QemuProcess qemu, Dictionary<string, PortListener> listeners, string mark, CancellationToken cancellation)
    {
        Task console = QemuProcess.KeepTailAsync(qemu.Output, _console, SeeIfUp);
        Task messages = QemuProcess.KeepTailAsync(qemu.Error, _messages);
        using CancellationTokenSource ended = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        Dictionary<string, NetworkStream> ports = [];
        try
        {
            Task deadline = Task.Delay(_options.Deadline ?? Timeout.InfiniteTimeSpan, ended.Token);
            Task bootDeadline = Task.Delay(_options.BootDeadline, ended.Token);
            int? code = null;
            if (await AcceptAsync(qemu, listeners, ports, ended.Token))
            {
                // Not awaited: it ends with the guest.
                _ = StartCommandsAsync(ports, mark, ended.Token);
                Task<int?> command = TalkAsync(ports, mark, ended.Token);
                Task first = await Task.WhenAny(command, deadline, bootDeadline, _up.Task);
                if (first == _up.Task)
                    first = await Task.WhenAny(command, deadline);
                cancellation.ThrowIfCancellationRequested();
                if (first == deadline)
                    throw TimedOut($"The command did not end within {_options.Deadline}");
                if (first == bootDeadline)
                    throw TimedOut($"The guest did not boot within {_options.BootDeadline}");
                code = await command;
            }

            // The end of the control port tells the guest that all has arrived; it powers off.
            await CloseAsync(ports);
            await Task.WhenAny(qemu.Exited, Task.Delay(PowerOffDeadline, ended.Token));
            cancellation.ThrowIfCancellationRequested();
            if (code is null)
            {
                qemu.Kill();
                int qemuCode = await qemu.Exited;
                await Task.WhenAll(console, messages);
                throw Died(qemuCode);
            }

            return code.Value;
        }
        finally
        {
            await ended.CancelAsync();
            await CloseAsync(ports);
        }
    }

    // False when QEMU ended instead of connecting its ports.
    private static async Task<bool> AcceptAsync(
        QemuProcess qemu, Dictionary<string, PortListener> listeners, Dictionary<string, NetworkStream> ports, CancellationToken cancellation)
    {
        foreach ((string name, PortListener listener) in listeners)
        {
            Task<NetworkStream> accept = listener.AcceptAsync(qemu.Id, cancellation);
            if (await Task.WhenAny(accept, qemu.Exited) != accept)
                return false;
            ports[name] = await accept;
        }

        return true;
    }

    private static async Task CloseAsync(Dictionary<string, NetworkStream> ports)
    {
        foreach (NetworkStream port in ports.Values)
            await port.DisposeAsync();
    }

    // The guest asks for its command at each boot.
    private async Task StartCommandsAsync(Dictionary<string, NetworkStream> ports, string mark, CancellationToken cancellation)
    {
        string script = Convert.ToBase64String(Encoding.UTF8.GetBytes(ShellQuote.Join(_options.Command) + "\n"));
        byte[] answer = Encoding.ASCII.GetBytes($"{mark} {(_options.Input is null ? "no" : "yes")} {script}\n");
        byte[] asked = new byte[1];
        try
        {
            while (await ports["control"].ReadAsync(asked, cancellation) != 0)
            {
                if (asked[0] == (byte)'\n')
                    await ports["control"].WriteAsync(answer, cancellation);
            }
        }
        catch (Exception e) when (e is IOException or ObjectDisposedException or OperationCanceledException)
        {
            // Expected: the guest is gone, which the ends of its streams tell, too.
        }
    }

    // Input goes in, the two streams come out, each ended by a mark, the first with the exit code. Null when a stream ended without its
    // mark: the guest is gone.
    private async Task<int?> TalkAsync(Dictionary<string, NetworkStream> ports, string mark, CancellationToken cancellation)
    {
        // Not awaited: the command is free not to read all its input.
        _ = FeedAsync(ports["in"], cancellation);
        Task<string?> error = DrainAsync(ports["err"], _options.Error, mark, cancellation);
        string? code = await DrainAsync(ports["out"], _options.Output, mark, cancellation);
        return await error is null || code is null ? null : int.Parse(code);
    }

    private async Task FeedAsync(NetworkStream port, CancellationToken cancellation)
    {
        if (_options.Input is null)
            return;
        try
        {
            await _options.Input.CopyToAsync(port, cancellation);
            port.Socket.Shutdown(SocketShutdown.Send);
        }
        catch (Exception e) when (e is IOException or SocketException or ObjectDisposedException or OperationCanceledException)
        {
            // Expected: the guest ended before its input did.
        }
    }

    private static async Task<string?> DrainAsync(NetworkStream port, Stream target, string mark, CancellationToken cancellation)
    {
        EndMark end = new(Encoding.ASCII.GetBytes($"\u001e{mark}"));
        byte[] buffer = new byte[32 * 1024];
        int count;
        do
        {
            try
            {
                count = await port.ReadAsync(buffer, cancellation);
            }
            catch (IOException)
            {
                // Expected when QEMU is killed: the connection is reset.
                count = 0;
            }

            await target.WriteAsync(count == 0 ? end.Rest() : end.Pass(buffer.AsSpan(0, count)), cancellation);
            await target.FlushAsync(cancellation);
        }
        while (count != 0 && end.Tail is null);
        return end.Tail;
    }

    private void SeeIfUp(StringBuilder console)
    {
        if (!_up.Task.IsCompleted && console.ToString().Contains(UpMark))
            _up.TrySetResult();
    }

    private VirtbusException TimedOut(string what) => new(Errno.ETIMEDOUT, $"{what}. The guest was killed. {ConsoleEnd()}");

    private VirtbusException Died(int exitCode)
    {
        if (exitCode == 0)
            return new VirtbusException(Errno.EIO, $"The guest ended before its command did: {PanicLine() ?? "it was powered off"}. {ConsoleEnd()}");
        string messages = HostCommand.LastLines(_messages.ToString(), ErrorLines);
        string names = _options.Devices.Count == 0 ? "" : $" Check the daemon of {string.Join(", ", _options.Devices.Select(device => $"'{device.Name}'"))}.";
        return new VirtbusException(Errno.EIO, $"QEMU ended with code {exitCode}.{names} It said:\n{messages}\n{ConsoleEnd()}");
    }

    private string? PanicLine()
    {
        lock (_console)
            return _console.ToString().Split('\n').FirstOrDefault(line => line.Contains("Kernel panic"))?.Trim();
    }

    private string ConsoleEnd()
    {
        lock (_console)
        {
            string lines = HostCommand.LastLines(_console.ToString(), ErrorLines);
            return lines.Length == 0 ? "Its console was empty." : $"The end of its console:\n{lines}";
        }
    }
}
