using Virtbus.Daemon.Api;

namespace Virtbus.Cli.Verbs;

/// <summary>What the sockets of the running fabric are for.</summary>
internal static class Sockets
{
    /// <summary>The protocol of a console: text for people.</summary>
    public const string Console = "console";

    /// <summary>The protocol by which programs read and write a disk.</summary>
    public const string Nbd = "nbd";

    /// <summary>Whether a virtual machine opens a device by it.</summary>
    public static bool IsForGuests(SocketAnswer socket) => socket.Protocol is not (Console or Nbd);

    /// <summary>Whether a person means it by a name or a PCI address.</summary>
    public static bool IsOf(SocketAnswer socket, string name) => socket.Device == name || socket.Address == name || (socket.Address is { } a && a == "0000:" + name);

    /// <summary>The one that a person means: by the name of its device, by the address, or by that of the function that was defined to be the device.</summary>
    public static SocketAnswer? Find(ControlClient client, IReadOnlyList<SocketAnswer> sockets, string name) =>
        sockets.FirstOrDefault(s => IsOf(s, name))
        ?? (FunctionVerbs.All(client).FirstOrDefault(f => f.Name == name)?.Device is { } device ? sockets.FirstOrDefault(s => IsOf(s, device)) : null);

    /// <summary>The running fabric's sockets.</summary>
    public static IReadOnlyList<SocketAnswer> All(ControlClient client) => client.Ask("GET", "/v1/sockets", ApiJson.Default.IReadOnlyListSocketAnswer);

    /// <summary>Who is connected: "4711 (qemu-virtbus)"; empty when nobody is.</summary>
    public static string User(SocketAnswer socket) => socket.Connection switch
    {
        null => "",
        // Over TCP an address is known and no process.
        { Process: null, Name: { } name } => name,
        { Process: null } => "of another container",
        { Name: null } c => $"{c.Process}",
        var c => $"{c.Process} ({c.Name})",
    };

    /// <summary>What it is called: the name, and the address where that is another.</summary>
    public static string Title(SocketAnswer socket) => socket.Address is null || socket.Address == socket.Device ? socket.Device : $"{socket.Device} ({socket.Address})";
}
