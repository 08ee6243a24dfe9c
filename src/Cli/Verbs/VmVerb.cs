using System.CommandLine;
using Virtbus.Daemon.Api;
using Virtbus.Platform;

namespace Virtbus.Cli.Verbs;

internal static class VmVerb
{
    /// <param name="guestCommand">What followed '--'; null for a shell in the guest.</param>
    public static Command Make(string[]? guestCommand)
    {
        var devices = Names.Sockets();
        return CommandLine.Asking(
            "vm",
            "Start a virtual machine with devices attached; a shell in it, or after '--' a command.",
            (result, client, output) => Run(Resolve(client, result.GetRequiredValue(devices)), guestCommand),
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

    private static int Run(IReadOnlyList<SocketAnswer> sockets, string[]? guestCommand) => throw new VirtbusException(
        Errno.ENOSYS,
        $"This build starts no virtual machines. Open {string.Join(", ", sockets.Select(s => s.Path))} with a VMM of yours{(guestCommand is null ? "" : " and run the command there")}.");
}
