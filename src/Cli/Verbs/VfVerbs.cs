using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;
using Virtbus.Cli.Text;
using Virtbus.Daemon.Api;
using Virtbus.Platform;

namespace Virtbus.Cli.Verbs;

/// <summary>Virtual functions of an adapter: what each is to be, and how many there are. All of it is attributes of the adapter's device.</summary>
internal static class VfVerbs
{
    private const string NumberAttribute = "sriov_numvfs";

    public static Command Make() => CommandLine.Group(
        "vf",
        "Configure, enable and disable virtual functions.",
        List(),
        Set(),
        Enable(),
        Disable());

    private static Command List()
    {
        var adapter = Names.Adapter();
        return CommandLine.Asking(
            "list",
            "List the virtual functions that an adapter has.",
            (result, client, output) =>
            {
                var device = Adapter(client, result.GetRequiredValue(adapter));
                var all = client.Ask("GET", "/v1/devices", ApiJson.Default.IReadOnlyListDeviceAnswer);
                DeviceAnswer[] functions = [.. Links(client, device).Select(path => all.First(d => d.Path == path))];
                output.Print(functions, ApiJson.Default.IReadOnlyListDeviceAnswer, writer =>
                {
                        var defined = FunctionVerbs.All(client);
                    var table = new Table("VF", "DEVICE", "PROFILE", "STATE", "DRIVER");
                    for (var i = 0; i < functions.Length; i++)
                        table.Add($"{i}", functions[i].Name, Profile(defined.FirstOrDefault(f => f.Device == functions[i].Name)), DeviceTree.State(functions[i]), functions[i].Driver);
                    table.WriteTo(writer);
                });
                return ExitCode.Done;
            },
            adapter);
    }

    private static Command Set()
    {
        var adapter = Names.Adapter();
        var number = Number("NUMBER", "Which virtual function, from 0.");
        var mac = new Option<string>("--mac") { Description = "Its station address." };
        var queues = new Option<int?>("--queues") { Description = "How many queue sets it can make.", CustomParser = result => Parse(result) };
        var driver = Names.WithDrivers(new Option<string>("--driver") { Description = "The only driver that may take it, for example vfio-pci; 'any' lets the bus choose." }, "pci");
        var command = CommandLine.Asking(
            "set",
            "Say what a virtual function is to be, before it is enabled.",
            (result, client, output) =>
            {
                var device = Adapter(client, result.GetRequiredValue(adapter));
                var index = result.GetRequiredValue(number).ToString(CultureInfo.InvariantCulture);
                var words = new List<string>();
                if (result.GetValue(mac) is { } address)
                    words.Add("mac=" + address);
                if (result.GetValue(queues) is { } count)
                    words.Add("queues=" + count.ToString(CultureInfo.InvariantCulture));
                if (result.GetValue(driver) is { } name)
                {
                    if (name != "any")
                        DriverVerbs.LoadDriver(client, device.Bus!, name);
                    words.Add("driver=" + (name == "any" ? "" : name));
                }
                var parent = device.Label ?? device.Name;
                var there = FunctionVerbs.All(client).FirstOrDefault(f => f.Kind == "vf" && (f.Parent == device.Label || f.Parent == device.Name) && f.Profile.GetValueOrDefault("index") == index);
                var function = there?.Name ?? $"{parent}v{index}";
                try
                {
                    if (there is null)
                        FunctionVerbs.Define(client, function, "vf", parent, [$"index={index}", .. words], isKept: false);
                    else
                        FunctionVerbs.Set(client, function, words);
                }
                catch (VirtbusException e)
                {
                    // Of the number and the options that were typed, not of a function that nobody named.
                    throw new VirtbusException(e.Errno, e.Message.Replace($"Function '{function}': index ", $"Virtual function of {parent}: ", StringComparison.Ordinal).Replace($"Function '{function}': ", $"Virtual function {index} of {parent}: ", StringComparison.Ordinal), e);
                }
                var answer = FunctionVerbs.Find(client, function);
                output.Print(answer, ApiJson.Default.FunctionAnswer, writer => writer.WriteLine(Profile(answer)));
                return ExitCode.Done;
            },
            adapter,
            number);
        Option[] options = [mac, queues, driver];
        foreach (var option in options)
            command.Options.Add(option);
        CommandLine.AddCheck(command, result =>
        {
            // Not their values: one that can't be read throws here, and is told by itself.
            if (options.All(option => result.GetResult(option) is null))
                result.AddError("'virtbus vf set' needs --mac, --queues or --driver.");
        });
        return command;
    }

    private static Command Enable()
    {
        var adapter = Names.Adapter();
        var count = Number("COUNT", "How many.");
        return CommandLine.Asking(
            "enable",
            "Enable virtual functions, which appear configured.",
            (result, client, output) =>
            {
                var device = Adapter(client, result.GetRequiredValue(adapter));
                if (result.GetRequiredValue(count) > 0 && Read(client, $"{device.Path}/{NumberAttribute}") is not "0" and var enabled)
                    throw new VirtbusException(Errno.EBUSY, $"Device {device.Name} has {enabled} virtual functions enabled, and PCI enables all at once. Disable those first: virtbus vf disable {device.Label ?? device.Name}");
                client.Write($"{device.Path}/{NumberAttribute}", result.GetRequiredValue(count).ToString(CultureInfo.InvariantCulture));
                foreach (var function in Links(client, device))
                    DriverVerbs.RequireWanted(client, function);
                PrintNumber(client, output, device);
                return ExitCode.Done;
            },
            adapter,
            count);
    }

    private static Command Disable()
    {
        var adapter = Names.Adapter();
        var force = DriverVerbs.Force();
        var command = CommandLine.Asking(
            "disable",
            "Take all virtual functions of an adapter away. Waits while a virtual machine has one open.",
            (result, client, output) =>
            {
                var device = Adapter(client, result.GetRequiredValue(adapter));
                foreach (var function in Links(client, device))
                    DeviceUsers.AskToLeave(client, DeviceVerbs.Find(client, function), result.GetValue(force), "removed");
                client.Write($"{device.Path}/{NumberAttribute}", "0");
                PrintNumber(client, output, device);
                return ExitCode.Done;
            },
            adapter);
        command.Options.Add(force);
        return command;
    }

    private static Argument<int> Number(string name, string description) => new(name) { Description = description, CustomParser = Parse };

    private static int Parse(ArgumentResult result)
    {
        var word = result.Tokens[0].Value;
        if (!int.TryParse(word, NumberStyles.None, CultureInfo.InvariantCulture, out var number))
            result.AddError($"'{word}' is no number. Write for example 2.");
        return number;
    }

    private static DeviceAnswer Adapter(ControlClient client, string name)
    {
        var device = DeviceVerbs.Find(client, name);
        if (device.Bus != "pci")
            throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} is no PCI function, so it has no virtual functions. Name an adapter of the manifest.");
        var entries = Entries(client, device.Path);
        if (entries.All(e => e.Name != NumberAttribute))
            throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} has no virtual functions. Name an adapter's physical function.");
        if (client.Ask("GET", "/v1/kinds", ApiJson.Default.IReadOnlyListKindAnswer).All(k => k.Kind != "vf" || (k.Parent != device.Label && k.Parent != device.Name)))
            throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} has no driver that configures virtual functions. Bind one with 'virtbus driver bind'.");
        return device;
    }

    private static string Profile(FunctionAnswer? function) =>
        function is null ? "" : string.Join(' ', function.Profile.Where(static p => p.Key != "index").Select(static p => $"{p.Key} {p.Value}"));

    // In order of their numbers.
    internal static IEnumerable<string> Links(ControlClient client, DeviceAnswer device) =>
        from entry in Entries(client, device.Path)
        where entry is { Kind: "link", Target: not null } && entry.Name.StartsWith("virtfn", StringComparison.Ordinal)
        orderby int.Parse(entry.Name.AsSpan("virtfn".Length), CultureInfo.InvariantCulture)
        select Path.GetFullPath(entry.Target!, device.Path);

    private static IReadOnlyList<EntryAnswer> Entries(ControlClient client, string path) =>
        client.Ask("GET", ControlClient.Query("/v1/tree", ("path", path)), ApiJson.Default.NodeAnswer).Entries ?? [];

    private static string Read(ControlClient client, string path) =>
        client.Ask("GET", ControlClient.Query("/v1/tree", ("path", path)), ApiJson.Default.NodeAnswer).Value?.TrimEnd('\n') ?? "";

    private static void PrintNumber(ControlClient client, Output output, DeviceAnswer device)
    {
        var path = $"{device.Path}/{NumberAttribute}";
        var number = Read(client, path);
        output.Print(new NodeAnswer(path, "file", null, number, null), ApiJson.Default.NodeAnswer, writer => writer.WriteLine($"{device.Name}: {number} virtual functions"));
    }
}
