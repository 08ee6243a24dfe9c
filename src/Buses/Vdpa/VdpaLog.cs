using Microsoft.Extensions.Logging;

namespace Virtbus.Buses.Vdpa;

/// <summary>What the vdpa bus logs. Event ids are stable: 2200 to 2299.</summary>
internal static partial class VdpaLog
{
    [LoggerMessage(2200, LogLevel.Error, "{Device}: a bug of its model at {Work}; it needs a reset ({Suppressed} before this one not told)")]
    internal static partial void ModelFailed(ILogger log, string device, string work, long suppressed, Exception error);
}
