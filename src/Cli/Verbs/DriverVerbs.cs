using System.CommandLine;
using Virtbus.Cli.Text;
using Virtbus.Daemon.Api;
using Virtbus.Platform;

namespace Virtbus.Cli.Verbs;

internal static class DriverVerbs
{
    public static Command Make()
    {
        var (toBind, to) = (Names.Device(), Names.Driver());
        var toUnbind = Names.Device();
        return CommandLine.Group(
            "driver",
            "Look at drivers, bind and unbind them.",
            CommandLine.Asking("list", "List the drivers.", static (_, client, output) =>
            {
                output.Print(client.Ask("GET", "/v1/drivers"), ApiJson.Default.IReadOnlyListDriverAnswer, WriteList);
                return ExitCode.Done;
            }),
            CommandLine.Asking(
                "bind",
                "Bind a device to a driver.",
                (result, client, output) =>
                {
                    var device = OnBus(client, result.GetRequiredValue(toBind), "bound");
                    client.Write($"/bus/{device.Bus}/drivers/{result.GetRequiredValue(to)}/bind", device.Name);
                    DeviceVerbs.PrintAgain(client, output, device);
                    return ExitCode.Done;
                },
                toBind,
                to),
            CommandLine.Asking(
                "unbind",
                "Unbind a device from its driver.",
                (result, client, output) =>
                {
                    var device = OnBus(client, result.GetRequiredValue(toUnbind), "unbound");
                    var driver = device.Driver
                        ?? throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} has no driver. 'virtbus driver bind {device.Name} DRIVER' gives it one.");
                    client.Write($"/bus/{device.Bus}/drivers/{driver}/unbind", device.Name);
                    DeviceVerbs.PrintAgain(client, output, device);
                    return ExitCode.Done;
                },
                toUnbind));
    }

    private static DeviceAnswer OnBus(ControlClient client, string name, string what)
    {
        var device = DeviceVerbs.Find(client, name);
        return device.Bus is null
            ? throw new VirtbusException(Errno.EINVAL, $"Device {device.Name} is on no bus, so it can't be {what}. 'virtbus device list' shows which devices are on one.")
            : device;
    }

    private static void WriteList(TextWriter writer, IReadOnlyList<DriverAnswer> drivers)
    {
        var table = new Table("NAME", "BUS", "MODULE", "DEVICES");
        foreach (var driver in drivers)
            table.Add(driver.Name, driver.Bus, driver.Module ?? "-", $"{driver.Devices.Count}");
        table.WriteTo(writer);
    }
}
