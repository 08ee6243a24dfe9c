using System.CommandLine;
using Virtbus.Cli.Text;
using Virtbus.Daemon.Api;
using Virtbus.Platform;

namespace Virtbus.Cli.Verbs;

/// <summary>PCI functions that are plugged in and out while the fabric runs. All of it is attributes of the bus and its devices.</summary>
internal static class FunctionVerbs
{
    private const string Bus = "pci";
    private const string ProviderFolder = "/bus/pci/providers";

    public static Command Make() => CommandLine.Group(
        "function",
        "Plug PCI functions in and out: simulated ones, those of other processes, those of the host.",
        List(),
        Plug(),
        Unplug());

    private static Command List() => CommandLine.Asking(
        "list",
        "List what can be plugged in, by provider.",
        static (_, client, output) =>
        {
            var folder = client.Ask("GET", ControlClient.Query("/v1/tree", ("path", ProviderFolder)), ApiJson.Default.NodeAnswer);
            FunctionSource[] sources = [.. (folder.Entries ?? []).Select(e => SourceOf(client, e.Name))];
            output.Print(sources, CliJson.Default.FunctionSourceArray, writer =>
            {
                var table = new Table("PROVIDER", "FUNCTIONS");
                foreach (var source in sources)
                    table.Add(source.Provider, source.Obstacle ?? (source.Functions.Count == 0 ? "any that you name" : string.Join(' ', source.Functions)));
                table.WriteTo(writer);
            });
            return ExitCode.Done;
        });

    private static Command Plug()
    {
        var name = new Argument<string>("NAME") { Description = "What the function is to be called." };
        // An option each; the providers' names are the same words.
        Option<string>[] providers =
        [
            new("--simulated") { Description = "A simulated function of this kind: scratch.", HelpName = "KIND" },
            new("--vfio-user") { Description = "A function that another process serves on this socket.", HelpName = "SOCKET" },
            new("--host") { Description = "A function of this host that Linux's vfio-pci has.", HelpName = "ADDRESS" },
        ];
        var driver = new Option<string>("--driver") { Description = "The only driver that may take it; its module is loaded if need be." };
        var command = CommandLine.Asking(
            "plug",
            "Plug a function into a free slot.",
            (result, client, output) =>
            {
                var label = result.GetRequiredValue(name);
                var provider = providers.First(p => result.GetValue(p) is not null);
                var function = result.GetRequiredValue(provider);
                if (provider.Name == "--vfio-user")
                    function = Path.GetFullPath(function);
                var wish = $"{provider.Name.TrimStart('-')} {function} label {label}";
                if (result.GetValue(driver) is { } wanted)
                {
                    DriverVerbs.LoadDriver(client, Bus, wanted);
                    wish += $" driver {wanted}";
                }
                client.Write("/bus/pci/plug", wish);
                var device = DeviceVerbs.Find(client, label);
                DriverVerbs.RequireWanted(client, device.Path);
                DeviceVerbs.PrintAgain(client, output, device);
                return ExitCode.Done;
            },
            name);
        foreach (var option in providers)
            command.Options.Add(option);
        command.Options.Add(driver);
        command.Validators.Add(result =>
        {
            if (providers.Count(p => result.GetValue(p) is not null) != 1)
                result.AddError($"'virtbus function plug' needs one of {string.Join(", ", providers.Select(p => p.Name))}.");
        });
        return command;
    }

    private static Command Unplug()
    {
        var toUnplug = Names.Device();
        var force = DriverVerbs.Force();
        var surprise = new Option<bool>("--surprise") { Description = "Pull it out without a word, as a person pulls a card." };
        var command = CommandLine.Asking(
            "unplug",
            "Take a function out of its slot, with all that is behind it. Waits while a virtual machine has it open. Cancels a plug that is under way.",
            (result, client, output) =>
            {
                if (FindOrCancel(client, result.GetRequiredValue(toUnplug)) is not { } device)
                {
                    var cancelled = new CancelledPlug(result.GetRequiredValue(toUnplug));
                    output.Print(cancelled, CliJson.Default.CancelledPlug, writer => writer.WriteLine($"{cancelled.Cancelled}: plug cancelled"));
                    return ExitCode.Done;
                }
                if (device.Bus != Bus)
                    throw new VirtbusException(Errno.EINVAL, $"Device {device.Name} is no PCI function, so it is in no slot. 'virtbus device list' shows which devices are on the bus {Bus}.");
                var pulls = result.GetValue(surprise);
                if (!pulls)
                    DeviceUsers.AskToLeave(client, device, result.GetValue(force), "unplugged");
                try
                {
                    client.Write(device.Path + "/unplug", pulls ? "surprise" : "1");
                }
                catch (VirtbusException e) when (e.Errno == Errno.ENOENT)
                {
                    throw new VirtbusException(Errno.EINVAL, $"Device {device.Name} is a virtual function, which has no slot of its own. 'virtbus vf disable' takes it away.", e);
                }
                output.Print(device, ApiJson.Default.DeviceAnswer, writer => writer.WriteLine($"{device.Name}: unplugged"));
                return ExitCode.Done;
            },
            toUnplug);
        command.Options.Add(surprise);
        command.Options.Add(force);
        return command;
    }

    // A function that is being plugged in has no device yet.
    private static DeviceAnswer? FindOrCancel(ControlClient client, string name)
    {
        try
        {
            return DeviceVerbs.Find(client, name);
        }
        catch (VirtbusException missing) when (missing.Errno is Errno.ENOENT or Errno.ENODEV)
        {
            try
            {
                client.Write("/bus/pci/unplug", name);
                return null;
            }
            catch (VirtbusException e) when (e.Errno == Errno.ENOENT)
            {
                // Nor is it being plugged in: what was said first tells the person more.
                throw missing;
            }
        }
    }

    private static FunctionSource SourceOf(ControlClient client, string provider)
    {
        try
        {
            var answer = client.Ask("GET", ControlClient.Query("/v1/tree", ("path", $"{ProviderFolder}/{provider}")), ApiJson.Default.NodeAnswer);
            return new FunctionSource(provider, answer.Value?.Split('\n', StringSplitOptions.RemoveEmptyEntries) ?? [], null);
        }
        catch (VirtbusException e) when (e.Errno == Errno.ENODEV)
        {
            return new FunctionSource(provider, [], e.Message);
        }
    }
}
