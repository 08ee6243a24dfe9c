using Microsoft.Extensions.Logging;

namespace Virtbus.Drivers.MerlinVfioPci;

/// <summary>The module's log lines. Ids are stable.</summary>
internal static partial class MerlinVfioLog
{
    [LoggerMessage(2100, LogLevel.Information, "{Device}: bound; its VFIO device appears when the channel of {PhysicalFunction} does (driver merlin_core, part vfmig)")]
    public static partial void Waits(ILogger log, string device, string physicalFunction);

    [LoggerMessage(2101, LogLevel.Warning, "{Device}: its VFIO device could not be registered: {Reason}")]
    public static partial void NotRegistered(ILogger log, string device, string reason);
}
