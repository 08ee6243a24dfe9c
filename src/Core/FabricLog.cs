using Microsoft.Extensions.Logging;

namespace Virtbus.Core;

/// <summary>The core's log lines. Ids are stable: 1xx binding, 2xx events, 3xx modules, 4xx power.</summary>
internal static partial class FabricLog
{
    [LoggerMessage(101, LogLevel.Warning, "{Device}: probe with driver {Driver} failed: {Reason}")]
    public static partial void ProbeFailed(ILogger log, string device, string driver, string reason, Exception? error);

    [LoggerMessage(102, LogLevel.Debug, "{Device}: driver {Driver} declined: {Reason}")]
    public static partial void ProbeDeclined(ILogger log, string device, string driver, string reason);

    [LoggerMessage(103, LogLevel.Debug, "{Device}: probe deferred: {Reason}")]
    public static partial void ProbeDeferred(ILogger log, string device, string reason);

    [LoggerMessage(104, LogLevel.Error, "{Device}: remove of driver {Driver} failed; the device is unbound all the same")]
    public static partial void RemoveFailed(ILogger log, string device, string driver, Exception error);

    [LoggerMessage(105, LogLevel.Error, "{Device}: release of a resource failed; the next one is released all the same")]
    public static partial void ReleaseFailed(ILogger log, string device, Exception error);

    [LoggerMessage(106, LogLevel.Error, "{Device}: match by bus {Bus} against driver {Driver} failed; the driver is passed over")]
    public static partial void MatchFailed(ILogger log, string device, string bus, string driver, Exception error);

    [LoggerMessage(107, LogLevel.Error, "{Device}: an observer of class {Class} failed")]
    public static partial void ObserverFailed(ILogger log, string device, string @class, Exception error);

    [LoggerMessage(108, LogLevel.Error, "Work beside its caller failed: {Work}")]
    public static partial void WorkFailed(ILogger log, string work, Exception error);

    [LoggerMessage(109, LogLevel.Error, "{Device}: what its driver runs when a probe is cancelled failed; the removal goes on")]
    public static partial void CancelFailed(ILogger log, string device, Exception error);

    [LoggerMessage(110, LogLevel.Error, "{Device}: looking for drivers on bus {Bus} failed; it stays unbound")]
    public static partial void CandidatesFailed(ILogger log, string device, string bus, Exception error);

    [LoggerMessage(111, LogLevel.Error, "{Device}: its retried probe failed")]
    public static partial void RetryFailed(ILogger log, string device, Exception error);

    [LoggerMessage(112, LogLevel.Error, "{Device}: its consumer {Consumer} could not be unbound before it: {Reason}")]
    public static partial void ConsumerStays(ILogger log, string device, string consumer, string reason);

    [LoggerMessage(113, LogLevel.Error, "{Device}: what it does before it leaves failed; it leaves all the same")]
    public static partial void LeavingFailed(ILogger log, string device, Exception error);

    [LoggerMessage(201, LogLevel.Error, "{Device}: the variables of its event could not be made; the event has none")]
    public static partial void UeventVariablesFailed(ILogger log, string device, Exception error);

    [LoggerMessage(301, LogLevel.Information, "Module {Module} loaded")]
    public static partial void ModuleLoaded(ILogger log, string module);

    [LoggerMessage(302, LogLevel.Information, "Module {Module} unloaded")]
    public static partial void ModuleUnloaded(ILogger log, string module);

    [LoggerMessage(303, LogLevel.Warning, "Module file {File} skipped: {Reason}")]
    public static partial void ModuleSkipped(ILogger log, string file, string reason);

    [LoggerMessage(304, LogLevel.Error, "Module {Module} for alias {Alias} could not be loaded: {Reason}")]
    public static partial void ModuleLoadFailed(ILogger log, string module, string alias, string reason);

    [LoggerMessage(305, LogLevel.Error, "Module {Module}: its exit function failed; it is unloaded all the same")]
    public static partial void ModuleExitFailed(ILogger log, string module, Exception error);

    [LoggerMessage(401, LogLevel.Error, "{Device}: {Phase} failed: {Reason}")]
    public static partial void PowerFailed(ILogger log, string device, string phase, string reason);
}
