using Microsoft.Extensions.Logging;

namespace Virtbus.Subsystems.Vfio;

/// <summary>The subsystem's log lines. Ids are stable.</summary>
internal static partial class VfioLog
{
    [LoggerMessage(1100, LogLevel.Information, "{Device} ({Label}): opened by '{User}'")]
    public static partial void Opened(ILogger log, string device, string label, string user);

    [LoggerMessage(1101, LogLevel.Information, "{Device} ({Label}): closed by '{User}'")]
    public static partial void Closed(ILogger log, string device, string label, string user);

    [LoggerMessage(1106, LogLevel.Warning, "{Device} ({Label}): {Suppressed} lines left out before this")]
    public static partial void LeftOut(ILogger log, string device, string label, long suppressed);

    [LoggerMessage(1102, LogLevel.Warning, "{Device} ({Label}): its driver wants it back, but '{User}' has it open; asked to let go (request {Count}). Detach the device there, or end that program")]
    public static partial void InUse(ILogger log, string device, string label, string user, int count);

    [LoggerMessage(1103, LogLevel.Warning, "{Device} ({Label}): taken away from '{User}'")]
    public static partial void Revoked(ILogger log, string device, string label, string user);

    [LoggerMessage(1104, LogLevel.Error, "{Device} ({Label}): the driver's close failed; the device counts as closed all the same")]
    public static partial void CloseFailed(ILogger log, string device, string label, Exception error);

    [LoggerMessage(1105, LogLevel.Error, "{Device} ({Label}): the request to let go could not be passed on")]
    public static partial void RequestFailed(ILogger log, string device, string label, Exception error);
}
