using Microsoft.Extensions.Logging;

namespace Virtbus.Daemon;

/// <summary>What the daemon says of itself.</summary>
internal static partial class DaemonLog
{
    [LoggerMessage(601, LogLevel.Information, "Fabric of {Manifest} is up, version {Version}")]
    internal static partial void Started(ILogger log, string manifest, string version);

    [LoggerMessage(602, LogLevel.Error, "Going down hangs at '{Step}' after {Milliseconds} ms; the process ends all the same")]
    internal static partial void StopHangs(ILogger log, string step, long milliseconds);

    [LoggerMessage(604, LogLevel.Error, "Thread '{Name}' failed; the rest goes on")]
    internal static partial void ThreadFailed(ILogger log, string name, Exception error);

    [LoggerMessage(603, LogLevel.Error, "Going down failed at '{Step}'; the process ends all the same")]
    internal static partial void StopFailed(ILogger log, string step, Exception error);
}
