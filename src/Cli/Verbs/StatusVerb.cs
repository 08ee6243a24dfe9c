using System.CommandLine;
using Virtbus.Cli.Text;
using Virtbus.Daemon.Api;

namespace Virtbus.Cli.Verbs;

internal static class StatusVerb
{
    public static Command Make() => CommandLine.Asking("status", "Show how the running fabric is: its process, who uses its devices, what it has left.", static (_, client, output) =>
    {
        output.Print(client.Ask("GET", "/v1/status"), ApiJson.Default.StatusAnswer, Write);
        return ExitCode.Done;
    });

    private static void Write(TextWriter writer, StatusAnswer status)
    {
        writer.WriteLine($"fabric   {status.Manifest}");
        writer.WriteLine($"folder   {status.Runtime}");
        writer.WriteLine($"process  {status.Pid}, version {status.Version}, {status.State}, up {Duration.Text(status.Uptime)}");
        writer.WriteLine($"devices  {status.Devices}, {status.Bound} bound{(status.Deferred > 0 ? $", {status.Deferred} deferred" : "")}; {status.Modules} modules");
        if (status.Faults > 0)
            writer.WriteLine($"faults   {status.Faults} in device models; the log has them, the attribute 'faults' of a device its own");
        if (status.Sockets.Count > 0)
        {
            writer.WriteLine();
            var sockets = new Table("SOCKET OF", "PROTOCOL", "USER", "FOR", "MESSAGES", "BAD");
            foreach (var socket in status.Sockets)
            {
                sockets.Add(
                    socket.Device,
                    socket.Protocol,
                    Sockets.User(socket),
                    socket.Connection is { } connection ? Duration.Text(connection.Seconds) : "",
                    socket.Connection is { } c && socket.Protocol != Sockets.Console ? $"{c.Messages}" : "",
                    socket.Protocol == Sockets.Console ? "" : $"{socket.BadMessages}");
            }
            sockets.WriteTo(writer);
        }
        foreach (var socket in status.Sockets)
        {
            if (socket.Hint is not { } hint)
                continue;
            writer.WriteLine();
            Paragraph.Write(writer, $"{socket.Device}: {hint}");
        }
        writer.WriteLine();
        var budgets = new Table("BUDGET", "USED", "LIMIT");
        foreach (var budget in status.Budgets)
            budgets.Add(budget.Name, budget.Used is { } used ? $"{used}" : "unknown", budget.Limit is { } limit ? $"{limit}" : "none");
        budgets.WriteTo(writer);
    }
}
