using System.CommandLine;
using Virtbus.Cli.Text;
using Virtbus.Daemon.Api;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Cli.Verbs;

/// <summary>
/// Functions of all kinds: defined, configured, activated, and back; and PCI functions that are plugged in and out at once. All of it is attributes of
/// the tree.
/// </summary>
internal static class FunctionVerbs
{
    private const string Bus = "pci";
    private const string ProviderFolder = "/bus/pci/providers";
    private const string Config = "/kernel/config";
    private const string Draining = "draining";
    // The kind of function that --virtio plugs in.
    private const string Virtio = "virtio";
    private static readonly string[] VirtioTypes = ["blk", "net", "console", "rng"];
    private static readonly TimeSpan Moment = TimeSpan.FromMilliseconds(20);

    public static Command Make() => CommandLine.Group(
        "function",
        "Define, configure and activate functions: virtual functions, vDPA devices, disks, PCI functions; plug PCI functions in and out.",
        List(),
        Show(),
        Kinds(),
        DefineVerb(),
        SetVerb(),
        Activate(),
        Deactivate(),
        Undefine(),
        Sources(),
        Plug(),
        Unplug());

    internal static IReadOnlyList<FunctionAnswer> All(ControlClient client) =>
        client.Ask("GET", "/v1/functions", ApiJson.Default.IReadOnlyListFunctionAnswer);

    internal static FunctionAnswer Find(ControlClient client, string name) =>
        client.Ask("GET", ControlClient.Query("/v1/function", ("name", name)), ApiJson.Default.FunctionAnswer);

    internal static void Define(ControlClient client, string name, string kind, string? parent, IEnumerable<string> pairs, bool isKept)
    {
        List<string> words = [name, "kind=" + kind];
        if (parent is not null)
            words.Add("parent=" + parent);
        if (!isKept)
            words.Add("kept=0");
        client.Write(Config + "/define", Join([.. words, .. pairs]));
    }

    internal static void Set(ControlClient client, string name, IEnumerable<string> pairs) =>
        client.Write($"{Config}/functions/{Find(client, name).Name}/set", Join(pairs));

    private static string Join(IEnumerable<string> words) => string.Join(' ', words.Select(ProfileText.Quote));

    private static Command List() => CommandLine.Asking(
        "list",
        "List the functions that are defined, with how far each is.",
        static (_, client, output) =>
        {
            var all = All(client);
            output.Print(all, ApiJson.Default.IReadOnlyListFunctionAnswer, writer =>
            {
                var table = new Table("FUNCTION", "KIND", "PARENT", "STATE", "DEVICE");
                foreach (var function in all)
                    table.Add(function.Name, function.Kind, function.Parent ?? "", function.State, function.Device ?? "");
                table.WriteTo(writer);
                foreach (var function in all.Where(static f => f.Problem is not null))
                    writer.WriteLine($"{function.Name}: {function.Problem}");
            });
            return ExitCode.Done;
        });

    private static Command Show()
    {
        var name = Names.Function();
        return CommandLine.Asking(
            "show",
            "Show a function: how far it is, and what each of its attributes is.",
            (result, client, output) =>
            {
                Print(output, Find(client, result.GetRequiredValue(name)));
                return ExitCode.Done;
            },
            name);
    }

    private static Command Kinds() => CommandLine.Asking(
        "kinds",
        "List the kinds of function that can be defined now, at what, and with which attributes.",
        static (_, client, output) =>
        {
            var all = client.Ask("GET", "/v1/kinds", ApiJson.Default.IReadOnlyListKindAnswer);
            output.Print(all, ApiJson.Default.IReadOnlyListKindAnswer, writer =>
            {
                foreach (var kind in all)
                {
                    writer.WriteLine(kind.Parent is null ? kind.Kind : $"{kind.Kind} at {kind.Parent}");
                    foreach (var (field, description) in kind.Fields)
                        writer.WriteLine($"  {field}: {description}");
                }
            });
            return ExitCode.Done;
        });

    private static Command DefineVerb()
    {
        var name = new Argument<string>("NAME") { Description = "What the function is to be called." };
        var kind = Names.WithKinds(new Option<string>("--kind") { Description = "Its kind, as 'virtbus function kinds' lists them.", Required = true });
        var parent = Names.WithParents(new Option<string>("--parent") { Description = "What it hangs at; needed where several make the kind." }, kind);
        var passing = new Option<bool>("--transient") { Description = "Forget it when the daemon ends; else it is there again with the next one." };
        var pairs = Names.WithFields(Pairs("Attributes, for example queues=4."), (_, line) => line.GetResult(kind)?.Tokens is [var said, ..] ? said.Value : null);
        var command = CommandLine.Asking(
            "define",
            "Define a function. Nothing of it is visible before it is activated.",
            (result, client, output) =>
            {
                var label = result.GetRequiredValue(name);
                Define(client, label, result.GetRequiredValue(kind), result.GetValue(parent), result.GetValue(pairs) ?? [], !result.GetValue(passing));
                PrintState(client, output, [label]);
                return ExitCode.Done;
            },
            name,
            pairs);
        command.Options.Add(kind);
        command.Options.Add(parent);
        command.Options.Add(passing);
        return command;
    }

    private static Command SetVerb()
    {
        var name = Names.Function();
        var pairs = Names.WithFields(
            Pairs("Attributes, for example queues=4; queues= takes a value away. All are changed, or none."),
            (client, line) => Names.Words(line, name) is [var function, ..] ? Find(client, function).Kind : null);
        return CommandLine.Asking(
            "set",
            "Configure a function.",
            (result, client, output) =>
            {
                Set(client, result.GetRequiredValue(name), result.GetValue(pairs) ?? []);
                PrintState(client, output, [result.GetRequiredValue(name)]);
                return ExitCode.Done;
            },
            name,
            pairs);
    }

    private static Command Activate()
    {
        var names = Names.Functions(static f => f.Device is null);
        return CommandLine.Asking(
            "activate",
            "Make functions, all that are named or none. They appear finished, and their drivers have them.",
            (result, client, output) =>
            {
                string[] wanted = [.. result.GetRequiredValue(names).Distinct()];
                client.Write(Config + "/activate", Join(wanted));
                PrintState(client, output, wanted);
                return ExitCode.Done;
            },
            names);
    }

    private static Command Deactivate()
    {
        var names = Names.Functions(static f => f.Device is not null);
        var force = DriverVerbs.Force();
        var command = CommandLine.AskingAsync(
            "deactivate",
            "Take functions away. Their definitions stay. Waits while a virtual machine has one open.",
            async (result, client) =>
            {
                string[] wanted = [.. result.GetRequiredValue(names).Distinct()];
                var forced = result.GetValue(force);
                FunctionAnswer[] functions = [.. wanted.Select(n => Find(client, n)).Where(static f => f.Device is not null)];
                // Those whose deactivation waits for a user are deactivated when that one is sent away.
                string[] draining = forced ? [.. functions.Where(static f => f.State == Draining).Select(static f => f.Name)] : [];
                string[] left = [.. wanted.Except(draining)];
                // Nobody is sent away from functions that stay.
                if (left.Length > 0)
                    client.Write(Config + "/deactivate", Join([.. left, "check=1"]));
                foreach (var function in functions)
                {
                    DeviceUsers.AskToLeave(
                        client, DeviceVerbs.Find(client, function.Device!), forced, "taken away", command: $"virtbus function deactivate {string.Join(' ', wanted)} --force");
                }

                while (draining.Any(n => Find(client, n).State == Draining))
                    await Task.Delay(Moment);
                if (left.Length > 0)
                    client.Write(Config + "/deactivate", Join(left));
                PrintState(client, CommandLine.OutputOf(result), wanted);
                return ExitCode.Done;
            },
            names);
        command.Options.Add(force);
        return command;
    }

    private static Command Undefine()
    {
        var names = Names.Functions(static f => f.Device is null);
        return CommandLine.Asking(
            "undefine",
            "Forget functions that are not active.",
            (result, client, output) =>
            {
                FunctionAnswer[] functions = [.. result.GetRequiredValue(names).Select(n => Find(client, n))];
                client.Write(Config + "/undefine", Join(functions.Select(static f => f.Name)));
                output.Print(functions, ApiJson.Default.IReadOnlyListFunctionAnswer, writer =>
                {
                    foreach (var function in functions)
                        writer.WriteLine($"{function.Name}: undefined");
                });
                return ExitCode.Done;
            },
            names);
    }

    private static Argument<string[]> Pairs(string description) => new("KEY=VALUE") { Description = description, Arity = ArgumentArity.ZeroOrMore };

    private static void PrintState(ControlClient client, Output output, IEnumerable<string> names)
    {
        FunctionAnswer[] functions = [.. names.Select(n => Find(client, n))];
        output.Print(functions, ApiJson.Default.IReadOnlyListFunctionAnswer, writer =>
        {
            foreach (var function in functions)
                writer.WriteLine($"{function.Name}: {function.State}{(function.Device is { } device && device != function.Name ? $" as {device}" : "")}");
        });
    }

    private static void Print(Output output, FunctionAnswer function) => output.Print(function, ApiJson.Default.FunctionAnswer, writer =>
    {
        writer.WriteLine($"{function.Name}: {function.Kind}{(function.Parent is { } parent ? " at " + parent : "")}, {function.State}{(function.Device is { } device ? " as " + device : "")}");
        if (function.Problem is { } problem)
            writer.WriteLine($"  {problem}");
        foreach (var (field, value) in function.Profile)
            writer.WriteLine($"  {field}={ProfileText.Quote(value)}{(function.Set.Contains(field) ? "" : " (not set)")}");
    });

    private static Command Sources() => CommandLine.Asking(
        "sources",
        "List what can be plugged in, by provider.",
        static (_, client, output) =>
        {
            FunctionSource[] sources = [.. Providers(client).Select(name => SourceOf(client, name))];
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
            Names.WithSources(new("--simulated") { Description = "A simulated function of this kind: scratch.", HelpName = "KIND" }, "simulated"),
            Names.FileOf(new("--vfio-user") { Description = "A function that another process serves on this socket.", HelpName = "SOCKET" }),
            Names.WithSources(new("--host") { Description = "A function of this host that Linux's vfio-pci has.", HelpName = "ADDRESS" }, "host"),
            Names.OneOf(new("--virtio") { Description = "A virtio device: blk, net, console or rng. Its attributes follow, for example memory=64MiB.", HelpName = "TYPE" }, VirtioTypes),
            Names.WithProviders(new("--provider") { Description = "Any other provider, by its name; beside --function.", HelpName = "NAME" }),
        ];
        var other = Names.WithSourcesOf(new Option<string>("--function") { Description = "The provider's name for the function, beside --provider.", HelpName = "NAME" }, providers[^1]);
        var driver = Names.WithDrivers(new Option<string>("--driver") { Description = "The only driver that may take it; its module is loaded if need be. For a virtio device vfio-pci when absent, and pci-pf-stub for one with virtual functions." }, Bus);
        var virtio = providers[^2];
        var pairs = Names.WithFields(Pairs("Attributes of a virtio device, as 'virtbus function kinds' lists them."), (_, line) => line.GetResult(virtio) is null ? null : Virtio);
        var command = CommandLine.Asking(
            "plug",
            "Plug a function into a free slot.",
            (result, client, output) =>
            {
                var label = result.GetRequiredValue(name);
                var provider = providers.First(p => result.GetValue(p) is not null);
                var (maker, function) = (provider.Name.TrimStart('-'), result.GetRequiredValue(provider));
                if (provider.Name == "--vfio-user")
                    function = Path.GetFullPath(function);
                if (provider == providers[^1])
                    (maker, function) = (function, result.GetRequiredValue(other));
                List<string> words = [label, provider == virtio ? "kind=" + Virtio : "kind=pci", "live=1", $"{maker}={function}", .. result.GetValue(pairs) ?? []];
                if (result.GetValue(driver) is { } wanted)
                {
                    DriverVerbs.LoadDriver(client, Bus, wanted);
                    words.Add("driver=" + wanted);
                }
                client.Write(Config + "/define", Join(words));
                var device = DeviceVerbs.Find(client, label);
                DeviceVerbs.PrintAgain(client, output, device);
                return ExitCode.Done;
            },
            name,
            pairs);
        foreach (var option in providers)
            command.Options.Add(option);
        command.Options.Add(other);
        command.Options.Add(driver);
        CommandLine.AddCheck(command, result =>
        {
            if (result.GetValue(providers[^1]) is not null != result.GetValue(other) is not null)
                result.AddError("'virtbus function plug' takes --provider and --function together.");
            else if (providers.Count(p => result.GetValue(p) is not null) != 1)
                result.AddError($"'virtbus function plug' needs one of {string.Join(", ", providers.Select(p => p.Name))}.");
            else if (result.GetResult(pairs)?.Tokens is [var first, ..] && result.GetValue(virtio) is null)
                result.AddError($"'virtbus function plug' takes attributes with --virtio only; this has '{first.Value}'.");
        });
        return command;
    }

    private static Command Unplug()
    {
        var toUnplug = Names.Plugged();
        var force = DriverVerbs.Force();
        var surprise = new Option<bool>("--surprise") { Description = "Pull it out without a word, as a person pulls a card." };
        var command = CommandLine.Asking(
            "unplug",
            "Take a function out of its slot, with all that is behind it. Waits while a virtual machine has it open. Cancels a plug that is under way.",
            (result, client, output) =>
            {
                var name = result.GetRequiredValue(toUnplug);
                var function = All(client).FirstOrDefault(f => IsPlugged(f) && (f.Name == name || f.Device == name));
                if (function is { Device: null, State: not "gone" })
                {
                    // It is being plugged in, or is not plugged in at all.
                    client.Write(Config + "/deactivate", ProfileText.Quote(function.Name));
                    var cancelled = new CancelledPlug(function.Name);
                    output.Print(cancelled, CliJson.Default.CancelledPlug, writer => writer.WriteLine($"{cancelled.Cancelled}: plug cancelled"));
                    return ExitCode.Done;
                }
                var device = DeviceVerbs.Find(client, name);
                if (device.Bus != Bus)
                    throw new VirtbusException(Errno.EINVAL, $"Device {device.Name} is no PCI function, so it is in no slot. 'virtbus device list' shows which devices are on the bus {Bus}.");
                // Before anybody is asked to let go of it.
                if (function is null && !HasSlot(client, device))
                    throw new VirtbusException(Errno.EINVAL, $"Device {device.Name} is a virtual function, which has no slot of its own. 'virtbus vf disable' takes it away.");
                var pulls = result.GetValue(surprise);
                if (!pulls)
                    DeviceUsers.AskToLeave(client, device, result.GetValue(force), "unplugged");
                if (function is null || pulls)
                    client.Write(device.Path + "/unplug", pulls ? "surprise" : "1");
                if (function is not null)
                {
                    client.Write(Config + "/deactivate", ProfileText.Quote(function.Name));
                    if (!function.Kept)
                        client.Write(Config + "/undefine", ProfileText.Quote(function.Name));
                }
                output.Print(device, ApiJson.Default.DeviceAnswer, writer => writer.WriteLine($"{device.Name}: unplugged"));
                return ExitCode.Done;
            },
            toUnplug);
        command.Options.Add(surprise);
        command.Options.Add(force);
        return command;
    }

    /// <summary>Whether a function sits in a slot of its own.</summary>
    internal static bool IsPlugged(FunctionAnswer function) => function.Kind is Bus or Virtio;

    private static bool HasSlot(ControlClient client, DeviceAnswer device) =>
        (client.Ask("GET", ControlClient.Query("/v1/tree", ("path", device.Path)), ApiJson.Default.NodeAnswer).Entries ?? []).Any(static e => e.Name == "unplug");

    internal static IEnumerable<string> Providers(ControlClient client) =>
        (client.Ask("GET", ControlClient.Query("/v1/tree", ("path", ProviderFolder)), ApiJson.Default.NodeAnswer).Entries ?? []).Select(static e => e.Name);

    internal static FunctionSource SourceOf(ControlClient client, string provider)
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
