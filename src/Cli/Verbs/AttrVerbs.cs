using System.CommandLine;
using Virtbus.Daemon.Api;
using Virtbus.Platform;

namespace Virtbus.Cli.Verbs;

internal static class AttrVerbs
{
    /// <summary>The name of the argument that can be anything.</summary>
    public const string Value = "VALUE";

    // More than any attribute takes: the daemon says how much that is.
    private const int MaxInput = 32 << 10;

    public static Command Make()
    {
        var (toGet, toSet) = (Names.Attribute(), Names.Attribute());
        var value = new Argument<string?>(Value) { Description = "The value; read from standard input when absent.", Arity = ArgumentArity.ZeroOrOne };
        return CommandLine.Group(
            "attr",
            "Read and write attributes, the files of the fabric's tree.",
            CommandLine.Asking(
                "get",
                "Print an attribute, or list a folder.",
                (result, client, output) =>
                {
                    output.Print(client.Ask("GET", ControlClient.Query("/v1/tree", ("path", result.GetRequiredValue(toGet)))), ApiJson.Default.NodeAnswer, Write);
                    return ExitCode.Done;
                },
                toGet),
            CommandLine.Asking(
                "set",
                "Write an attribute. Returns when what was asked for is done.",
                (result, client, output) =>
                {
                    var path = result.GetRequiredValue(toSet);
                    var text = result.GetValue(value) ?? ReadInput();
                    client.Write(path, text);
                    output.Print(new NodeAnswer(path, "file", null, text, null), ApiJson.Default.NodeAnswer, _ => { });
                    return ExitCode.Done;
                },
                toSet,
                value));
    }

    private static string ReadInput()
    {
        var buffer = new char[MaxInput + 1];
        int read;
        try
        {
            read = StandardStreams.HasInput
                ? Console.In.ReadBlock(buffer, 0, buffer.Length)
                : throw new VirtbusException(Errno.EBADF, "There is no value, and standard input is closed. Write the value as an argument.");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new VirtbusException(Errno.EIO, $"Standard input, which has the value, can't be read: {e.Message} Write the value as an argument.", e);
        }
        return read <= MaxInput
            ? new string(buffer, 0, read)
            : throw new VirtbusException(Errno.E2BIG, $"Standard input has more than {MaxInput} characters. No attribute takes that much.");
    }

    private static void Write(TextWriter writer, NodeAnswer node)
    {
        if (node.Entries is null)
        {
            writer.Write(node.Value);
            return;
        }
        foreach (var entry in node.Entries)
        {
            writer.WriteLine(entry.Kind switch
            {
                "directory" => entry.Name + "/",
                "link" => $"{entry.Name} -> {entry.Target}",
                _ => entry.Name,
            });
        }
    }
}
