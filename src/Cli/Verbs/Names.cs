using System.CommandLine;
using System.CommandLine.Completions;
using Virtbus.Daemon.Api;
using Virtbus.Platform;

namespace Virtbus.Cli.Verbs;

/// <summary>Arguments that name something of the running fabric, with completion from it.</summary>
internal static class Names
{
    public static Argument<string> Device() => Completed(
        new Argument<string>("DEVICE") { Description = "A device's name or label; bus:name when several buses have it, or its path below /devices." },
        client => client.Ask("GET", "/v1/devices", ApiJson.Default.IReadOnlyListDeviceAnswer).SelectMany(d => d.Label is { } label ? [d.Name, label] : new[] { d.Name }));

    public static Argument<string> Function() => Completed(
        new Argument<string>("FUNCTION") { Description = "A function that is defined." },
        client => FunctionVerbs.All(client).Select(f => f.Name));

    public static Argument<string[]> Functions() => Completed(
        new Argument<string[]>("FUNCTION") { Description = "Functions that are defined.", Arity = ArgumentArity.OneOrMore },
        client => FunctionVerbs.All(client).Select(f => f.Name));

    public static Argument<string[]> Sockets() => Completed(
        new Argument<string[]>("DEVICE") { Description = "Devices that offer a socket, as 'up' shows them.", Arity = ArgumentArity.ZeroOrMore },
        client => Verbs.Sockets.All(client).Where(Verbs.Sockets.IsForGuests).Select(s => s.Device));

    public static Argument<string?> SocketOwner() => Completed(
        new Argument<string?>("DEVICE") { Description = "A device that offers a socket; all of them when absent.", Arity = ArgumentArity.ZeroOrOne },
        client => Verbs.Sockets.All(client).Select(s => s.Device).Distinct());

    public static Argument<string> Console() => Completed(
        new Argument<string>("PORT") { Description = "A serial port's name or PCI address." },
        client => Verbs.Sockets.All(client).Where(s => s.Protocol == Verbs.Sockets.Console).Select(s => s.Device));

    public static Argument<string> Driver() => Completed(
        new Argument<string>("DRIVER") { Description = "A driver's name." },
        client => client.Ask("GET", "/v1/drivers", ApiJson.Default.IReadOnlyListDriverAnswer).Select(d => d.Name));

    public static Argument<string> Module(string state) => Completed(
        new Argument<string>("MODULE") { Description = "A module's name." },
        client => client.Ask("GET", "/v1/modules", ApiJson.Default.IReadOnlyListModuleAnswer).Where(m => m.State == state).Select(m => m.Name));

    public static Argument<string> Attribute()
    {
        var argument = new Argument<string>("PATH") { Description = "A path in the tree of attributes, for example /bus/auxiliary/drivers." };
        argument.CompletionSources.Add(context => Ask(client => Entries(client, context.WordToComplete)));
        argument.HelpName = argument.Name;
        return argument;
    }

    private static T Completed<T>(T argument, Func<ControlClient, IEnumerable<string>> names)
        where T : Argument
    {
        argument.CompletionSources.Add(_ => Ask(names));
        // Else the help prints all that there is to complete from.
        argument.HelpName = argument.Name;
        return argument;
    }

    private static IEnumerable<string> Entries(ControlClient client, string word)
    {
        var folder = word[..(word.LastIndexOf('/') + 1)];
        var node = client.Ask("GET", ControlClient.Query("/v1/tree", ("path", folder.Length == 0 ? "/" : folder)), ApiJson.Default.NodeAnswer);
        return (node.Entries ?? []).Select(e => $"{(folder.Length == 0 ? "/" : folder)}{e.Name}{(e.Kind == "file" ? "" : "/")}");
    }

    private static IEnumerable<CompletionItem> Ask(Func<ControlClient, IEnumerable<string>> names)
    {
        try
        {
            return [.. names(ControlClient.FromEnvironment()).Select(n => new CompletionItem(n))];
        }
        catch (VirtbusException)
        {
            // Without a fabric there is nothing to complete from, and a shell's prompt is no place to say so.
            return [];
        }
    }
}
