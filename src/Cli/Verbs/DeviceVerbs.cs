using System.CommandLine;
using Virtbus.Cli.Text;
using Virtbus.Daemon.Api;

namespace Virtbus.Cli.Verbs;

internal static class DeviceVerbs
{
    public static Command Make()
    {
        var device = Names.Device();
        return CommandLine.Group(
            "device",
            "Look at devices.",
            CommandLine.Asking("list", "List the devices.", static (_, client, output) =>
            {
                output.Print(client.Ask("GET", "/v1/devices"), ApiJson.Default.IReadOnlyListDeviceAnswer, WriteList);
                return ExitCode.Done;
            }),
            CommandLine.Asking(
                "show",
                "Show all about a device.",
                (result, client, output) =>
                {
                    output.Print(client.Ask("GET", ControlClient.Query("/v1/device", ("name", result.GetRequiredValue(device)))), ApiJson.Default.DeviceAnswer, Write);
                    return ExitCode.Done;
                },
                device));
    }

    /// <summary>Finds the device that a person means.</summary>
    public static DeviceAnswer Find(ControlClient client, string name) =>
        client.Ask("GET", ControlClient.Query("/v1/device", ("name", name)), ApiJson.Default.DeviceAnswer);

    /// <summary>Prints a device after a change.</summary>
    public static void PrintAgain(ControlClient client, Output output, DeviceAnswer device)
    {
        var now = client.Ask("GET", ControlClient.Query("/v1/device", ("name", device.Path)));
        output.Print(now, ApiJson.Default.DeviceAnswer, (w, d) => w.WriteLine($"{d.Name}: {DeviceTree.StateWithDriver(d)}"));
    }

    private static void WriteList(TextWriter writer, IReadOnlyList<DeviceAnswer> devices)
    {
        var table = new Table("NAME", "BUS", "STATE", "DRIVER", "PATH");
        foreach (var device in devices)
            table.Add(DeviceTree.Name(device), device.Bus ?? device.Class, DeviceTree.State(device), device.Driver, device.Path);
        table.WriteTo(writer);
    }

    private static void Write(TextWriter writer, DeviceAnswer device)
    {
        writer.WriteLine(device.Name);
        foreach (var (name, value) in new[]
        {
            ("path", device.Path), ("label", device.Label), ("bus", device.Bus), ("class", device.Class), ("state", device.State), ("driver", device.Driver),
            ("module", device.Module), ("modalias", device.Modalias), ("deferred", device.Deferred), ("power", device.Power),
        })
        {
            if (value is not null)
                writer.WriteLine($"  {name,-9} {value}");
        }
        foreach (var socket in device.Sockets ?? [])
            SocketVerbs.WriteLines(writer, socket);
    }
}
