using System.CommandLine;
using Virtbus.Cli.Text;
using Virtbus.Daemon.Api;
using Virtbus.Platform;

namespace Virtbus.Cli.Verbs;

internal static class DriverVerbs
{
    public static Command Make()
    {
        var toBind = Names.Device(static d => d.Bus is not null);
        var to = Names.Driver(toBind);
        var toUnbind = Names.Device(static d => d.Driver is not null);
        var unbindForce = Force();
        return CommandLine.Group(
            "driver",
            "Look at drivers, bind, unbind and override them.",
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
                    Bind(client, device, result.GetRequiredValue(to));
                    DeviceVerbs.PrintAgain(client, output, device);
                    return ExitCode.Done;
                },
                toBind,
                to),
            With(unbindForce, CommandLine.Asking(
                "unbind",
                "Unbind a device from its driver. Waits while a virtual machine has it open.",
                (result, client, output) =>
                {
                    var device = OnBus(client, result.GetRequiredValue(toUnbind), "unbound");
                    var driver = device.Driver
                        ?? throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} has no driver. 'virtbus driver bind {device.Name} DRIVER' gives it one.");
                    Unbind(client, device, driver, result.GetValue(unbindForce));
                    DeviceVerbs.PrintAgain(client, output, device);
                    return ExitCode.Done;
                },
                toUnbind)),
            Override(),
            Suggest());
    }

    private static void Bind(ControlClient client, DeviceAnswer device, string driver)
    {
        if (client.Ask("GET", "/v1/drivers", ApiJson.Default.IReadOnlyListDriverAnswer).All(d => d.Bus != device.Bus || d.Name != driver))
            throw NoDriver(client, device.Bus!, driver, $"'virtbus driver override {device.Name} {ModuleName.DriverOf(driver)}' loads a module for it.");
        client.Write($"/bus/{device.Bus}/drivers/{driver}/bind", device.Name);
    }

    private static VirtbusException NoDriver(ControlClient client, string bus, string driver, string remedyWithModule)
    {
        var drivers = client.Ask("GET", "/v1/drivers", ApiJson.Default.IReadOnlyListDriverAnswer);
        var module = ModuleName.Of(driver);
        var modules = client.Ask("GET", "/v1/modules", ApiJson.Default.IReadOnlyListModuleAnswer).Where(static m => m.State != "skipped").ToList();
        string remedy;
        if (drivers.FirstOrDefault(d => d.Name == driver) is { } other)
            remedy = $"It is a driver of bus {other.Bus}.";
        else if (modules.Exists(m => m.Name == module && m.State != "loaded"))
            remedy = remedyWithModule;
        else
            remedy = "'virtbus driver list' and 'virtbus module list' show what there is.";
        var known = drivers.Where(d => d.Bus == bus).Select(static d => d.Name).Concat(modules.Where(static m => m.State == "available").Select(static m => ModuleName.DriverOf(m.Name)));
        return new VirtbusException(Errno.ENOENT, $"Bus {bus} has no driver '{driver}'.{Suggestion.For(driver, known)} {remedy}");
    }

    private static Command Override()
    {
        var toOverride = Names.Device(static d => d.Bus is not null);
        var driver = Names.AnyDriver(toOverride);
        var clear = new Option<bool>("--clear") { Description = "Let the bus choose again." };
        var force = Force();
        var command = CommandLine.Asking(
            "override",
            "Give a device to a driver of your choice, as driverctl does: set its driver_override and bind it anew.",
            (result, client, output) =>
            {
                var device = OnBus(client, result.GetRequiredValue(toOverride), "bound");
                var wanted = result.GetValue(driver);
                if (device.Driver is { } current && current != wanted)
                {
                    // Nobody is sent away for a driver that can't be had.
                    DeviceUsers.AskToLeave(client, device, result.GetValue(force), "unbound", beforehand: () =>
                    {
                        if (wanted is not null)
                            LoadDriver(client, device.Bus!, wanted);
                    });
                }
                OverrideAndBind(client, device, wanted);
                DeviceVerbs.PrintAgain(client, output, device);
                return ExitCode.Done;
            },
            toOverride,
            driver);
        command.Options.Add(clear);
        CommandLine.AddCheck(command, result =>
        {
            if (result.GetValue(clear) == (result.GetValue(driver) is not null))
                result.AddError("'virtbus driver override' needs either a DRIVER or --clear.");
        });
        return With(force, command);
    }

    private static Command Suggest()
    {
        var toSuggest = Names.Device(static d => d.Bus is not null);
        return CommandLine.Asking(
            "suggest",
            "Say which drivers can hand a device to virtual machines and user-space drivers, the best first, and why.",
            (result, client, output) =>
            {
                var name = result.GetRequiredValue(toSuggest);
                var answer = client.Ask("GET", ControlClient.Query("/v1/suggestions", ("device", name)));
                output.Print(answer, ApiJson.Default.IReadOnlyListSuggestionAnswer, (writer, suggestions) =>
                {
                    var table = new Table("DRIVER", "WHY");
                    foreach (var suggestion in suggestions)
                        table.Add(suggestion.Driver, suggestion.Reason);
                    table.WriteTo(writer);
                    writer.WriteLine();
                    writer.WriteLine($"Take the first one with: virtbus driver override {name} {suggestions[0].Driver}");
                });
                return ExitCode.Done;
            },
            toSuggest);
    }

    internal static Option<bool> Force() => new("--force") { Description = "Take the device away from a virtual machine or program that has it open." };

    private static Command With(Option option, Command command)
    {
        command.Options.Add(option);
        return command;
    }

    // Drivers that serve nothing of their own accord, such as vfio-pci, are not loaded by any device that appears.
    internal static void LoadDriver(ControlClient client, string bus, string driver)
    {
        if (client.Ask("GET", "/v1/drivers", ApiJson.Default.IReadOnlyListDriverAnswer).Any(d => d.Bus == bus && d.Name == driver))
            return;
        var module = ModuleName.Of(driver);
        if (client.Ask("GET", "/v1/modules", ApiJson.Default.IReadOnlyListModuleAnswer).All(m => m.Name != module))
            throw NoDriver(client, bus, driver, "");
        var brought = client.Ask("POST", ControlClient.Query("/v1/modules/load", ("name", module)), ApiJson.Default.ModuleAnswer).Drivers ?? [];
        if (!brought.Contains(driver))
            throw new VirtbusException(Errno.ENOENT, $"Bus {bus} has no driver '{driver}'; that is the name of a module{(brought.Count > 0 ? $", whose driver is {string.Join(", ", brought)}" : "")}. Name a driver.");
    }

    // One request: it is done as a whole, or refused.
    private static void OverrideAndBind(ControlClient client, DeviceAnswer device, string? wanted)
    {
        try
        {
            client.Write(device.Path + "/driver_override_bind", wanted ?? "\n");
        }
        catch (VirtbusException e) when (wanted is not null && ReadOverride(client, device.Path) == wanted)
        {
            throw new VirtbusException(e.Errno, $"{e.Message}\nIt is left to {wanted} alone; 'virtbus driver override {device.Name} --clear' lets the bus choose again.", e);
        }
    }

    /// <summary>Fails with the reason when the only driver that may have a device did not take it as the device appeared.</summary>
    internal static void RequireWanted(ControlClient client, string path)
    {
        var device = DeviceVerbs.Find(client, path);
        if (device.Driver is null && ReadOverride(client, path) is { } wanted)
            client.Write($"/bus/{device.Bus}/drivers/{wanted}/bind", device.Name);
    }

    private static string? ReadOverride(ControlClient client, string path)
    {
        var value = client.Ask("GET", ControlClient.Query("/v1/tree", ("path", path + "/driver_override")), ApiJson.Default.NodeAnswer).Value?.TrimEnd('\n');
        // As the kernel shows that there is none.
        return value is null or "" or "(null)" ? null : value;
    }

    private static void Unbind(ControlClient client, DeviceAnswer device, string driver, bool force)
    {
        DeviceUsers.AskToLeave(client, device, force, "unbound");
        try
        {
            client.Write($"/bus/{device.Bus}/drivers/{driver}/unbind", device.Name);
        }
        catch (VirtbusException e) when (e.Errno == Errno.ENODEV && DeviceVerbs.Find(client, device.Path).Driver is null)
        {
            // Another one who wanted the same was waiting for the device's user.
        }
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
