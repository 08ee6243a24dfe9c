using Microsoft.Extensions.Logging;
using Virtbus.Platform;

namespace Virtbus.Buses.Virtio;

/// <summary>What the virtio bus logs. Event ids are stable: 2300 to 2349.</summary>
internal static partial class VirtioLog
{
    [LoggerMessage(2300, LogLevel.Warning, "{Device}: its device broke queue {Queue} ({Name}): {Reason}. It stands still until the driver is bound anew")]
    internal static partial void QueueBroken(ILogger log, string device, int queue, string name, string reason);

    [LoggerMessage(2301, LogLevel.Warning, "{Device}: its device failed and needs a reset; it stands still until driver {Driver} is bound anew")]
    internal static partial void NeedsReset(ILogger log, string device, string driver);

    [LoggerMessage(2302, LogLevel.Warning, "{Device}: {Reason} ({Errno}); its memory is taken away from it")]
    internal static partial void NotReset(ILogger log, string device, string reason, Errno errno);

    [LoggerMessage(2303, LogLevel.Error, "{Device}: driver {Driver} failed at a change of the configuration")]
    internal static partial void ChangeFailed(ILogger log, string device, string driver, Exception error);

    [LoggerMessage(2304, LogLevel.Error, "{Device}: the callback of queue {Queue} ({Name}), which is broken, failed")]
    internal static partial void CallbackFailed(ILogger log, string device, int queue, string name, Exception error);
}
