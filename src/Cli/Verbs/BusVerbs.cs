using System.CommandLine;
using Virtbus.Cli.Text;
using Virtbus.Daemon.Api;

namespace Virtbus.Cli.Verbs;

internal static class BusVerbs
{
    public static Command Make() => CommandLine.Group(
        "bus",
        "Look at buses.",
        CommandLine.Asking("list", "List the buses.", static (_, client, output) =>
        {
            output.Print(client.Ask("GET", "/v1/buses"), ApiJson.Default.IReadOnlyListBusAnswer, WriteList);
            return ExitCode.Done;
        }));

    private static void WriteList(TextWriter writer, IReadOnlyList<BusAnswer> buses)
    {
        var table = new Table("NAME", "DEVICES", "DRIVERS", "AUTOPROBE");
        foreach (var bus in buses)
            table.Add(bus.Name, $"{bus.Devices}", $"{bus.Drivers}", bus.Autoprobe ? "on" : "off");
        table.WriteTo(writer);
    }
}
