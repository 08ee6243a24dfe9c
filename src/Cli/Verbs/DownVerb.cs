using System.CommandLine;
using Virtbus.Daemon.Api;
using Virtbus.Platform;

namespace Virtbus.Cli.Verbs;

internal static class DownVerb
{
    private static readonly TimeSpan TimeToExit = TimeSpan.FromSeconds(10);

    public static Command Make() => CommandLine.Asking("down", "Take the running fabric down in order, and wait until it is.", static (_, client, output) =>
    {
        var status = client.Ask("GET", "/v1/status", ApiJson.Default.StatusAnswer);
        using var exit = ProcessExit.Of(status.Pid);
        var answer = client.Ask("POST", "/v1/shutdown");
        var ended = ControlClient.Read(answer, ApiJson.Default.ShutdownAnswer);
        if (!exit.Wait(TimeToExit))
            throw new VirtbusException(Errno.ETIMEDOUT, $"Process {status.Pid} took its fabric down but has not ended. {client.Runtime.LogFile} may say why; end it with: kill -9 {status.Pid}");
        if (!ended.Clean)
            throw new VirtbusException(Errno.ETIMEDOUT, $"The fabric ended before all of it was taken down in order. {client.Runtime.LogFile} says where it hung.");
        output.Print(answer, ApiJson.Default.ShutdownAnswer, (w, a) => w.WriteLine($"Fabric of process {a.Pid} down in {a.Milliseconds} ms."));
        return ExitCode.Done;
    });
}
