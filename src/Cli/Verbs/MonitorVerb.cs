using System.CommandLine;
using System.Text;
using Virtbus.Cli.Text;
using Virtbus.Daemon.Api;
using Virtbus.Platform;

namespace Virtbus.Cli.Verbs;

internal static class MonitorVerb
{
    public static Command Make()
    {
        var history = new Option<bool>("--history") { Description = "Begin with the events that the daemon still keeps." };
        var command = CommandLine.Asking("monitor", "Print events as they happen, until interrupted or the fabric goes down.", (result, client, output) =>
        {
            using var answer = client.Open("GET", ControlClient.Query("/v1/events", ("history", result.GetValue(history) ? "true" : "false")));
            using var lines = new StreamReader(answer, new UTF8Encoding(false));
            try
            {
                while (lines.ReadLine() is { } line)
                    Print(output, line);
            }
            catch (IOException e)
            {
                throw new VirtbusException(Errno.ECONNRESET, $"The daemon of {client.Runtime.Path} broke the stream off: {e.Message}", e);
            }
            return ExitCode.Done;
        });
        command.Options.Add(history);
        return command;
    }

    private static void Print(Output output, string line) =>
        output.Print(Encoding.UTF8.GetBytes(line), ApiJson.Default.UeventAnswer, static (w, e) => w.WriteLine(e.Lost is { } lost
            ? $"       lost {lost} events"
            : $"{e.Seqnum,6} {e.Action,-7} {e.Devpath} ({e.Subsystem}){string.Concat((e.Variables ?? new Dictionary<string, string>()).Select(v => $" {v.Key}={v.Value}"))}"));
}
