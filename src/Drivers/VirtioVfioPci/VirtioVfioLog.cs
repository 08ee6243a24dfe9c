using Microsoft.Extensions.Logging;

namespace Virtbus.Drivers.VirtioVfioPci;

/// <summary>The module's log lines. Ids are stable.</summary>
internal static partial class VirtioVfioLog
{
    [LoggerMessage(2500, LogLevel.Information, "{Device}: handed out as {Ops}")]
    public static partial void Bound(ILogger log, string device, string ops);
}
