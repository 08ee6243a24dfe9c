using System.CommandLine;
using Virtbus.Cli.Text;
using Virtbus.Daemon.Api;

namespace Virtbus.Cli.Verbs;

internal static class ModuleVerbs
{
    public static Command Make()
    {
        var (toLoad, toUnload) = (Names.Module("available"), Names.Module("loaded"));
        var force = new Option<bool>("--force") { Description = "Unbind devices that the module's drivers are bound to." };
        var unload = CommandLine.Asking(
            "unload",
            "Unload a module that nothing uses.",
            (result, client, output) =>
            {
                var name = result.GetRequiredValue(toUnload);
                if (result.GetValue(force))
                    AskUsersToLeave(client, name);
                var path = ControlClient.Query("/v1/modules/unload", ("name", name), ("force", result.GetValue(force) ? "true" : "false"));
                output.Print(client.Ask("POST", path), ApiJson.Default.UnloadAnswer, (w, a) =>
                    w.WriteLine(a.Collected ? $"{a.Name}: unloaded" : $"{a.Name}: unloaded, but something still refers to its objects, so its code stays in memory"));
                return ExitCode.Done;
            },
            toUnload);
        unload.Options.Add(force);
        return CommandLine.Group(
            "module",
            "Look at driver modules, load and unload them.",
            CommandLine.Asking("list", "List the modules that are loaded, those that could be, and files that are none.", static (_, client, output) =>
            {
                output.Print(client.Ask("GET", "/v1/modules"), ApiJson.Default.IReadOnlyListModuleAnswer, WriteList);
                return ExitCode.Done;
            }),
            CommandLine.Asking(
                "load",
                "Load a module and those that it depends on.",
                (result, client, output) =>
                {
                    output.Print(client.Ask("POST", ControlClient.Query("/v1/modules/load", ("name", result.GetRequiredValue(toLoad)))), ApiJson.Default.ModuleAnswer, (w, m) =>
                        w.WriteLine($"{m.Name}: loaded{(m.Drivers is { Count: > 0 } drivers ? ", drivers " + string.Join(", ", drivers) : "")}"));
                    return ExitCode.Done;
                },
                toLoad),
            unload);
    }

    private static void AskUsersToLeave(ControlClient client, string module)
    {
        DriverAnswer[] drivers = [.. client.Ask("GET", "/v1/drivers", ApiJson.Default.IReadOnlyListDriverAnswer).Where(d => d.Module == module)];
        foreach (var device in client.Ask("GET", "/v1/devices", ApiJson.Default.IReadOnlyListDeviceAnswer).Where(d => drivers.Any(driver => driver.Bus == d.Bus && driver.Devices.Contains(d.Name))))
            DeviceUsers.AskToLeave(client, device, force: false, "unbound");
    }

    private static void WriteList(TextWriter writer, IReadOnlyList<ModuleAnswer> modules)
    {
        var table = new Table("NAME", "STATE", "USED", "DRIVERS", "WHAT");
        foreach (var module in modules)
        {
            var used = (module.BoundDevices ?? 0) + (module.Holders?.Count ?? 0);
            table.Add(module.Name, module.State, module.State == "loaded" ? $"{used}" : "", string.Join(',', module.Drivers ?? []), module.Reason ?? module.Description);
        }
        table.WriteTo(writer);
    }
}
