using System.Net.Sockets;
using System.Reflection;
using Virtbus.Cli.Text;
using Virtbus.Platform;

namespace Virtbus.Cli;

/// <summary>How a verb that failed says so: in sentences on standard error, whatever it was that failed.</summary>
internal static class Failure
{
    // Set it to see where something comes from that nobody expected.
    private const string TraceVariable = "VIRTBUS_TRACE";

    /// <summary>Says what failed.</summary>
    /// <param name="error">What a verb threw.</param>
    /// <param name="output">Standard error.</param>
    /// <returns>What the program ends with.</returns>
    public static int Tell(Exception error, TextWriter output)
    {
        var cause = CauseOf(error);
        if (cause is OutputException { Errno: Errno.EPIPE })
            return ExitCode.BrokenPipe;
        foreach (var line in Sentences(cause).TrimEnd().Split('\n', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries))
            output.WriteLine($"virtbus: {line}");
        if (Environment.GetEnvironmentVariable(TraceVariable) is { Length: > 0 })
            output.WriteLine(error);
        return ExitCode.Failed;
    }

    // What the runtime wraps a refusal of the host in, when it comes while a class is made ready.
    private static Exception CauseOf(Exception error) => error is TypeInitializationException or TargetInvocationException or AggregateException && error.InnerException is { } inner ? CauseOf(inner) : error;

    private static string Sentences(Exception error) => error switch
    {
        OutputException lost => $"{lost.Message} {(lost.Outcome.Length > 0 ? lost.Outcome : ControlClient.HasChanged ? "What was asked for is done." : "")}".TrimEnd(),
        VirtbusException refused => refused.Message,
        IOException or UnauthorizedAccessException or SocketException or OutOfMemoryException => $"The host refused something: {error.Message}",
        _ => $"Something failed that should not: {error.GetType().Name}, {error.Message} This is a fault of the program; with {TraceVariable}=1 in the environment it says where.",
    };
}
