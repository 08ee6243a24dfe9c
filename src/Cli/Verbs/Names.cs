using System.CommandLine;
using System.CommandLine.Completions;
using Virtbus.Cli.Completion;
using Virtbus.Daemon.Api;
using Virtbus.Platform;

namespace Virtbus.Cli.Verbs;

/// <summary>Arguments that name something of the running fabric, with completion from it; and files.</summary>
internal static class Names
{
    private const string DeviceDescription = "A device's name or label; bus:name when several buses have it, or its path below /devices.";

    public static Argument<string> Device() => Device(static _ => true);

    /// <summary>A device, of which some are offered.</summary>
    public static Argument<string> Device(Func<DeviceAnswer, bool> isOffered) => Completed(
        new Argument<string>("DEVICE") { Description = DeviceDescription },
        (client, _) => Devices(client).Where(isOffered).SelectMany(NamesOf));

    public static Argument<string> Adapter() => Completed(
        new Argument<string>("DEVICE") { Description = DeviceDescription },
        static (client, _) =>
        {
            var parents = Kinds(client).Where(static k => k.Kind == "vf").Select(static k => k.Parent).ToHashSet();
            return Devices(client).Where(d => parents.Contains(d.Label) || parents.Contains(d.Name)).SelectMany(NamesOf);
        });

    public static Argument<string> Function() => Completed(
        new Argument<string>("FUNCTION") { Description = "A function that is defined." }, static (client, _) => Functions(client, static _ => true));

    /// <summary>Functions, of which some are offered.</summary>
    public static Argument<string[]> Functions(Func<FunctionAnswer, bool> isOffered) => Completed(
        new Argument<string[]>("FUNCTION") { Description = "Functions that are defined.", Arity = ArgumentArity.OneOrMore }, (client, _) => Functions(client, isOffered));

    /// <summary>What can be unplugged: functions that sit in a slot of their own by their names, and devices that sit in a slot.</summary>
    public static Argument<string> Plugged() => Completed(
        new Argument<string>("DEVICE") { Description = DeviceDescription },
        static (client, _) => [.. Functions(client, FunctionVerbs.IsPlugged), .. Devices(client).Where(static d => d.Bus == "pci").SelectMany(NamesOf)]);

    public static Argument<string[]> Sockets() => Completed(
        new Argument<string[]>("DEVICE") { Description = "Devices that offer a socket, as 'up' shows them.", Arity = ArgumentArity.ZeroOrMore },
        static (client, _) => Verbs.Sockets.All(client).Where(Verbs.Sockets.IsForGuests).Select(static s => Item(s.Device, s.Protocol)));

    public static Argument<string?> SocketOwner() => Completed(
        new Argument<string?>("DEVICE") { Description = "A device that offers a socket; all of them when absent.", Arity = ArgumentArity.ZeroOrOne },
        static (client, _) => Verbs.Sockets.All(client).Select(static s => Item(s.Device, s.Protocol)));

    public static Argument<string> Console() => Completed(
        new Argument<string>("PORT") { Description = "The name of a serial port, a console or a line (hvc0), or a PCI address." },
        static (client, _) => Verbs.Sockets.All(client).Where(static s => s.Protocol == Verbs.Sockets.Console).Select(static s => Item(s.Device, s.Address)));

    /// <summary>A driver for a device: those of its bus.</summary>
    /// <param name="device">The argument that names the device.</param>
    public static Argument<string> Driver(Argument<string> device) => Completed(
        new Argument<string>("DRIVER") { Description = "A driver's name." },
        (client, context) => Words(context, device) is [var name, ..] ? Drivers(client, DeviceVerbs.Find(client, name).Bus) : []);

    /// <summary>A driver for a device, which need not be loaded yet: first those that hand it to guests.</summary>
    /// <param name="device">The argument that names the device.</param>
    public static Argument<string?> AnyDriver(Argument<string> device) => Completed(
        new Argument<string?>("DRIVER") { Description = "The driver that is to have the device; its module is loaded if need be.", Arity = ArgumentArity.ZeroOrOne },
        (client, context) => Words(context, device) is [var name, ..] ? [.. Suggestions(client, name), .. Drivers(client, DeviceVerbs.Find(client, name).Bus)] : []);

    /// <summary>Completes an option with the drivers of a bus.</summary>
    public static Option<string> WithDrivers(Option<string> option, string bus)
    {
        option.CompletionSources.Add(_ => Ask(client => Drivers(client, bus)));
        return option;
    }

    /// <summary>A network interface, of which some are offered.</summary>
    public static Argument<string> Interface(Func<InterfaceAnswer, bool> isOffered) => Completed(
        new Argument<string>("INTERFACE") { Description = "A network interface's name, as 'virtbus interface list' shows it." },
        (client, _) => client.Ask("GET", "/v1/interfaces", ApiJson.Default.IReadOnlyListInterfaceAnswer).Where(isOffered).Select(static i => Item(i.Name, i.Join ?? i.State)));

    public static Argument<string> Module(string state) => Completed(
        new Argument<string>("MODULE") { Description = "A module's name." },
        (client, _) => client.Ask("GET", "/v1/modules", ApiJson.Default.IReadOnlyListModuleAnswer).Where(m => m.State == state).Select(static m => Item(m.Name, m.Description)));

    public static Argument<string> Attribute()
    {
        var argument = new Argument<string>("PATH") { Description = "A path in the tree of attributes, for example /bus/auxiliary/drivers." };
        argument.CompletionSources.Add(context => Ask(client => Entries(client, context.WordToComplete)));
        argument.HelpName = argument.Name;
        return argument;
    }

    /// <summary>A file of the host, which the shell completes.</summary>
    public static T File<T>(T argument)
        where T : Argument
    {
        argument.CompletionSources.Add(Completer.Files);
        // Else the help prints all that there is to complete from.
        argument.HelpName = argument.Name;
        return argument;
    }

    /// <summary>An option that names a file of the host.</summary>
    public static Option<string> FileOf(Option<string> option)
    {
        option.CompletionSources.Add(Completer.Files);
        return option;
    }

    /// <summary>Completes a kind of function.</summary>
    public static Option<string> WithKinds(Option<string> option)
    {
        option.CompletionSources.Add(static _ => Ask(static client => Kinds(client).Select(static k => k.Kind).Distinct().Select(static k => Item(k, null))));
        return option;
    }

    /// <summary>Completes what a function of a kind can hang at.</summary>
    /// <param name="option">The option.</param>
    /// <param name="kind">The option that names the kind.</param>
    public static Option<string> WithParents(Option<string> option, Option<string> kind)
    {
        option.CompletionSources.Add(context => Ask(client =>
            Kinds(client).Where(k => k.Parent is not null && (context.ParseResult.GetResult(kind)?.Tokens is not [var said, ..] || said.Value == k.Kind)).Select(static k => Item(k.Parent!, k.Kind))));
        return option;
    }

    /// <summary>Completes the attributes of a kind of function.</summary>
    /// <param name="pairs">The argument.</param>
    /// <param name="kindOf">The kind that a line names; null when it names none.</param>
    public static Argument<string[]> WithFields(Argument<string[]> pairs, Func<ControlClient, ParseResult, string?> kindOf)
    {
        pairs.CompletionSources.Add(context => Ask(client =>
            kindOf(client, context.ParseResult) is { } kind && Kinds(client).FirstOrDefault(k => k.Kind == kind) is { } found
                ? found.Fields.Select(static f => Item(f.Key + "=", f.Value))
                : []));
        return pairs;
    }

    /// <summary>Completes an option with words that are always the same.</summary>
    public static Option<string> OneOf(Option<string> option, IReadOnlyList<string> words)
    {
        option.CompletionSources.Add(_ => words.Select(static w => Item(w, null)));
        return option;
    }

    /// <summary>Completes an option with the functions of one of the PCI bus's providers.</summary>
    public static Option<string> WithSources(Option<string> option, string provider)
    {
        option.CompletionSources.Add(_ => Ask(client => FunctionVerbs.SourceOf(client, provider).Functions.Select(static f => Item(f, null))));
        return option;
    }

    /// <summary>Completes the PCI bus's providers.</summary>
    public static Option<string> WithProviders(Option<string> option)
    {
        option.CompletionSources.Add(static _ => Ask(static client => FunctionVerbs.Providers(client).Select(static p => Item(p, null))));
        return option;
    }

    /// <summary>Completes the functions of the provider that a line names.</summary>
    public static Option<string> WithSourcesOf(Option<string> option, Option<string> provider)
    {
        option.CompletionSources.Add(context => Ask(client =>
            context.ParseResult.GetResult(provider)?.Tokens is [var said, ..] ? FunctionVerbs.SourceOf(client, said.Value).Functions.Select(static f => Item(f, null)) : []));
        return option;
    }

    /// <summary>The words of a line that an argument has.</summary>
    public static IReadOnlyList<string> Words(ParseResult result, Argument argument) => [.. (result.GetResult(argument)?.Tokens ?? []).Select(static t => t.Value)];

    private static IReadOnlyList<string> Words(CompletionContext context, Argument argument) => Words(context.ParseResult, argument);

    private static T Completed<T>(T argument, Func<ControlClient, CompletionContext, IEnumerable<CompletionItem>> names)
        where T : Argument
    {
        // Else help would ask the fabric, and show the names of the moment as if there were no others.
        argument.HelpName = argument.Name;
        argument.CompletionSources.Add(context => Ask(client => names(client, context)));
        return argument;
    }

    private static IEnumerable<CompletionItem> NamesOf(DeviceAnswer device)
    {
        var what = string.Join(' ', new[] { device.Bus ?? device.Class, device.State, device.Driver }.OfType<string>());
        return device.Label is { } label ? [Item(label, $"{device.Name}, {what}"), Item(device.Name, $"{label}, {what}")] : [Item(device.Name, what)];
    }

    private static IEnumerable<CompletionItem> Drivers(ControlClient client, string? bus) =>
        client.Ask("GET", "/v1/drivers", ApiJson.Default.IReadOnlyListDriverAnswer)
            .Where(d => d.Bus == bus)
            .Select(static d => Item(d.Name, d.Module is { } module ? $"of module {module}" : $"of bus {d.Bus}"));

    private static IEnumerable<CompletionItem> Suggestions(ControlClient client, string device)
    {
        try
        {
            return client.Ask("GET", ControlClient.Query("/v1/suggestions", ("device", device)), ApiJson.Default.IReadOnlyListSuggestionAnswer).Select(static s => Item(s.Driver, s.Reason));
        }
        catch (VirtbusException e) when (e.Errno == Errno.EOPNOTSUPP)
        {
            // Nothing hands it to guests; drivers of its bus may have it all the same.
            return [];
        }
    }

    private static IEnumerable<CompletionItem> Functions(ControlClient client, Func<FunctionAnswer, bool> isOffered) =>
        FunctionVerbs.All(client).Where(isOffered).Select(static f => Item(f.Name, $"{f.Kind}{(f.Parent is { } parent ? " at " + parent : "")}, {f.State}"));

    private static IReadOnlyList<DeviceAnswer> Devices(ControlClient client) => client.Ask("GET", "/v1/devices", ApiJson.Default.IReadOnlyListDeviceAnswer);

    private static IReadOnlyList<KindAnswer> Kinds(ControlClient client) => client.Ask("GET", "/v1/kinds", ApiJson.Default.IReadOnlyListKindAnswer);

    private static CompletionItem Item(string name, string? what) => new(name, detail: what);

    private static IEnumerable<CompletionItem> Entries(ControlClient client, string word)
    {
        var folder = word[..(word.LastIndexOf('/') + 1)];
        var node = client.Ask("GET", ControlClient.Query("/v1/tree", ("path", folder.Length == 0 ? "/" : folder)), ApiJson.Default.NodeAnswer);
        return (node.Entries ?? []).Select(e => Item($"{(folder.Length == 0 ? "/" : folder)}{e.Name}{(e.Kind == "file" ? "" : "/")}", e.Target is { } target ? "-> " + target : null));
    }

    private static IEnumerable<CompletionItem> Ask(Func<ControlClient, IEnumerable<CompletionItem>> names)
    {
        try
        {
            return [.. names(ControlClient.FromEnvironment())];
        }
        catch (VirtbusException)
        {
            // Without a fabric there is nothing to complete from, and a shell's prompt is no place to say so.
            return [];
        }
    }
}
