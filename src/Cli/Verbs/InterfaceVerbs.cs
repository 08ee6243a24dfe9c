using System.CommandLine;
using Virtbus.Cli.Text;
using Virtbus.Daemon.Api;

namespace Virtbus.Cli.Verbs;

internal static class InterfaceVerbs
{
    public static Command Make()
    {
        var toLeave = Names.Interface(static i => i.Join is not null);
        return CommandLine.Group(
            "interface",
            "Look at network interfaces, join them to switches and to TAP devices of the host.",
            CommandLine.Asking("list", "List the network interfaces, with what they are joined to.", static (_, client, output) =>
            {
                output.Print(client.Ask("GET", "/v1/interfaces"), ApiJson.Default.IReadOnlyListInterfaceAnswer, WriteList);
                return ExitCode.Done;
            }),
            MakeJoin(),
            CommandLine.Asking(
                "leave",
                "Take an interface off what it is joined to. It stays up.",
                (result, client, output) =>
                {
                    var name = result.GetRequiredValue(toLeave);
                    client.Write("/kernel/joins/remove", name);
                    PrintAgain(client, output, name);
                    return ExitCode.Done;
                },
                toLeave));
    }

    private static Command MakeJoin()
    {
        var name = Names.Interface(static i => i.Path is not null);
        var place = new Option<string>("--switch") { Description = "The switch that it becomes a port of, by any name.", HelpName = "NAME" };
        var tap = new Option<string>("--tap") { Description = "The TAP device of the host that it is joined to; making it needs privilege.", HelpName = "NAME" };
        var vlan = new Option<string>("--vlan") { Description = "The VLAN that its port is of; frames pass with their tags when absent.", HelpName = "NUMBER" };
        var queues = new Option<string>("--queues") { Description = "How many queues the TAP device has; 1 when absent.", HelpName = "NUMBER" };
        (string Key, Option<string> Option)[] all = [("switch", place), ("tap", tap), ("vlan", vlan), ("queues", queues)];
        var command = CommandLine.Asking(
            "join",
            "Join an interface to a switch or a TAP device, and bring it up. It lasts until 'leave': an interface that goes and comes again is joined again.",
            (result, client, output) =>
            {
                var said = all.Where(o => result.GetValue(o.Option) is not null).Select(o => $"{o.Key}={result.GetValue(o.Option)}");
                client.Write("/kernel/joins/add", string.Join(' ', said.Prepend(result.GetRequiredValue(name))));
                PrintAgain(client, output, result.GetRequiredValue(name));
                return ExitCode.Done;
            },
            name);
        foreach (var (_, option) in all)
            command.Options.Add(option);
        CommandLine.AddCheck(command, result =>
        {
            if (result.GetValue(place) is null == result.GetValue(tap) is null)
                result.AddError("'virtbus interface join' needs one of --switch, --tap.");
            else if (result.GetValue(queues) is not null && result.GetValue(tap) is null)
                result.AddError("'virtbus interface join' takes --queues with --tap only.");
        });
        return command;
    }

    private static void PrintAgain(ControlClient client, Output output, string name)
    {
        var answer = client.Ask("GET", "/v1/interfaces", ApiJson.Default.IReadOnlyListInterfaceAnswer).FirstOrDefault(i => i.Name == name)
            ?? new InterfaceAnswer(name, null, null, null, "absent", null, null);
        output.Print(answer, ApiJson.Default.InterfaceAnswer, _ => { });
    }

    private static void WriteList(TextWriter writer, IReadOnlyList<InterfaceAnswer> interfaces)
    {
        var table = new Table("NAME", "STATE", "ADDRESS", "DRIVER", "JOIN", "");
        foreach (var one in interfaces)
            table.Add(one.Name, one.State, one.Address ?? "", one.Driver ?? "", one.Join ?? "", one.JoinState ?? "");
        table.WriteTo(writer);
    }
}
