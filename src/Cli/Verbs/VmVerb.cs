using System.CommandLine;
using Virtbus.Daemon.Api;
using Virtbus.Platform;
using Virtbus.Vm;

namespace Virtbus.Cli.Verbs;

internal static class VmVerb
{
    /// <param name="guestCommand">What followed '--'; null for a shell in the guest.</param>
    public static Command Make(string[]? guestCommand)
    {
        var devices = Names.Sockets();
        return CommandLine.AskingAsync(
            "vm",
            "Start a virtual machine with devices attached; a shell in it, or after '--' a command.",
            (result, client) => RunAsync(Resolve(client, result.GetRequiredValue(devices)), guestCommand),
            devices);
    }

    private static IReadOnlyList<SocketAnswer> Resolve(ControlClient client, IReadOnlyList<string> names)
    {
        var sockets = client.Ask("GET", "/v1/status", ApiJson.Default.StatusAnswer).Sockets;
        return [.. names.Select(name => sockets.FirstOrDefault(s => s.Device == name) ?? throw NoSocket(name, sockets))];
    }

    private static VirtbusException NoSocket(string name, IReadOnlyList<SocketAnswer> sockets) => new(
        Errno.ENODEV,
        $"No device '{name}' offers a socket. {(sockets.Count == 0 ? "No device of this fabric does; add a disk to the manifest." : $"Those that do are {string.Join(", ", sockets.Select(s => s.Device))}.")}");

    private static async Task<int> RunAsync(IReadOnlyList<SocketAnswer> sockets, string[]? guestCommand)
    {
        await using var output = Console.OpenStandardOutput();
        await using var error = Console.OpenStandardError();
        var options = new VmOptions
        {
            Devices = [.. sockets.Select(s => new VmDevice(s.Device, VmDeviceKind.VhostUserBlk, s.Path))],
            Command = guestCommand ?? [],
            Input = Console.IsInputRedirected ? Console.OpenStandardInput() : null,
            Output = output,
            Error = error,
        };
        try
        {
            return await new VmRunner(options, new ErrorLines()).RunAsync(CancellationToken.None);
        }
        catch (OperationCanceledException)
        {
            return ExitCode.Interrupted;
        }
    }

    // Progress goes to the error stream, so that the command's output stays alone; in order, so not through a thread pool.
    private sealed class ErrorLines : IProgress<string>
    {
        public void Report(string value) => Console.Error.WriteLine($"  {value}");
    }
}
