using System.CommandLine;
using Virtbus.Cli.Text;
using Virtbus.Daemon.Api;

namespace Virtbus.Cli.Verbs;

internal static class SocketVerbs
{
    public static Command Make()
    {
        var device = Names.SocketOwner();
        return CommandLine.Group(
            "socket",
            "Look at the sockets by which devices are opened.",
            CommandLine.Asking(
                "list",
                "List the sockets, or show all about those of one device.",
                (result, client, output) =>
                {
                    var of = result.GetValue(device);
                    var answer = client.Ask("GET", of is null ? "/v1/sockets" : ControlClient.Query("/v1/sockets", ("device", of)));
                    output.Print(answer, ApiJson.Default.IReadOnlyListSocketAnswer, of is null ? WriteList : (w, sockets) => WriteAll(w, sockets, of));
                    return ExitCode.Done;
                },
                device));
    }

    /// <summary>Writes all about a socket, a line each, as far as it has a value.</summary>
    /// <param name="writer">Where to.</param>
    /// <param name="socket">The socket.</param>
    public static void WriteLines(TextWriter writer, SocketAnswer socket)
    {
        var connection = socket.Connection;
        var isText = socket.Protocol == Sockets.Console;
        var hasMaps = !isText && socket.Protocol != Sockets.Nbd;
        foreach (var (name, value) in new[]
        {
            ("socket", $"{socket.Path} ({socket.Protocol})"),
            ("user", connection is null ? "nobody" : $"{Sockets.User(socket)}, for {Duration.Text(connection.Seconds)}"),
            ("messages", connection is null || isText ? null : $"{connection.Messages}, {connection.BadMessages} bad{(hasMaps ? $"; {connection.Maps} maps of its memory" : "")}"),
            ("users", $"{socket.Connections} so far{(isText ? "" : $", {socket.BadMessages} bad messages")}"),
            ("hint", socket.Hint),
        })
        {
            if (value is not null)
                writer.WriteLine($"  {name,-9} {value}");
        }
    }

    private static void WriteList(TextWriter writer, IReadOnlyList<SocketAnswer> sockets)
    {
        var table = new Table("SOCKET OF", "PROTOCOL", "USER", "PATH");
        foreach (var socket in sockets)
            table.Add(Sockets.Title(socket), socket.Protocol, Sockets.User(socket), socket.Path);
        table.WriteTo(writer);
    }

    private static void WriteAll(TextWriter writer, IReadOnlyList<SocketAnswer> sockets, string device)
    {
        if (sockets.Count == 0)
            writer.WriteLine($"{device} offers no socket.");
        foreach (var socket in sockets)
        {
            writer.WriteLine(Sockets.Title(socket));
            WriteLines(writer, socket);
        }
    }
}
