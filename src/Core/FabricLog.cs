using Microsoft.Extensions.Logging;
using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>
/// The core's log lines. Ids are stable: 1xx binding, 2xx events, 3xx modules, 4xx power. What others throw at the core is weighed: an end
/// that was to be expected is one line, and only a bug is an error with its stack.
/// </summary>
internal static partial class FabricLog
{
    [LoggerMessage(101, LogLevel.Warning, "{Device}: probe with driver {Driver} failed: {Reason}")]
    public static partial void ProbeFailed(ILogger log, string device, string driver, string reason, Exception? error);

    [LoggerMessage(102, LogLevel.Debug, "{Device}: driver {Driver} declined: {Reason}")]
    public static partial void ProbeDeclined(ILogger log, string device, string driver, string reason);

    [LoggerMessage(103, LogLevel.Debug, "{Device}: probe deferred: {Reason}")]
    public static partial void ProbeDeferred(ILogger log, string device, string reason);

    public static void RemoveFailed(ILogger log, string device, string driver, Exception error)
    {
        var (level, reason, bug) = Weigh(error);
        RemoveFailed(log, level, device, driver, reason, bug);
    }

    [LoggerMessage(EventId = 104, Message = "{Device}: remove of driver {Driver} failed; the device is unbound all the same: {Reason}")]
    private static partial void RemoveFailed(ILogger log, LogLevel level, string device, string driver, string reason, Exception? bug);

    public static void ReleaseFailed(ILogger log, string device, Exception error)
    {
        var (level, reason, bug) = Weigh(error);
        ReleaseFailed(log, level, device, reason, bug);
    }

    [LoggerMessage(EventId = 105, Message = "{Device}: release of a resource failed; the next one is released all the same: {Reason}")]
    private static partial void ReleaseFailed(ILogger log, LogLevel level, string device, string reason, Exception? bug);

    [LoggerMessage(106, LogLevel.Error, "{Device}: match by bus {Bus} against driver {Driver} failed; the driver is passed over")]
    public static partial void MatchFailed(ILogger log, string device, string bus, string driver, Exception error);

    public static void ObserverFailed(ILogger log, string device, string @class, Exception error)
    {
        var (level, reason, bug) = Weigh(error);
        ObserverFailed(log, level, device, @class, reason, bug);
    }

    [LoggerMessage(EventId = 107, Message = "{Device}: an observer of class {Class} failed: {Reason}")]
    private static partial void ObserverFailed(ILogger log, LogLevel level, string device, string @class, string reason, Exception? bug);

    public static void WorkFailed(ILogger log, string work, Exception error)
    {
        var (level, reason, bug) = Weigh(error);
        WorkFailed(log, level, work, reason, bug);
    }

    [LoggerMessage(EventId = 108, Message = "The {Work} ended early: {Reason}")]
    private static partial void WorkFailed(ILogger log, LogLevel level, string work, string reason, Exception? bug);

    public static void CancelFailed(ILogger log, string device, Exception error)
    {
        var (level, reason, bug) = Weigh(error);
        CancelFailed(log, level, device, reason, bug);
    }

    [LoggerMessage(EventId = 109, Message = "{Device}: what its driver runs when a probe is cancelled failed; the removal goes on: {Reason}")]
    private static partial void CancelFailed(ILogger log, LogLevel level, string device, string reason, Exception? bug);

    [LoggerMessage(110, LogLevel.Error, "{Device}: looking for drivers on bus {Bus} failed; it stays unbound")]
    public static partial void CandidatesFailed(ILogger log, string device, string bus, Exception error);

    public static void RetryFailed(ILogger log, string device, Exception error)
    {
        var (level, reason, bug) = Weigh(error);
        RetryFailed(log, level, device, reason, bug);
    }

    [LoggerMessage(EventId = 111, Message = "{Device}: its retried probe failed: {Reason}")]
    private static partial void RetryFailed(ILogger log, LogLevel level, string device, string reason, Exception? bug);

    [LoggerMessage(112, LogLevel.Error, "{Device}: its consumer {Consumer} could not be unbound before it: {Reason}")]
    public static partial void ConsumerStays(ILogger log, string device, string consumer, string reason);

    public static void LeavingFailed(ILogger log, string device, Exception error)
    {
        var (level, reason, bug) = Weigh(error);
        LeavingFailed(log, level, device, reason, bug);
    }

    [LoggerMessage(EventId = 113, Message = "{Device}: what it does before it leaves failed; it leaves all the same: {Reason}")]
    private static partial void LeavingFailed(ILogger log, LogLevel level, string device, string reason, Exception? bug);

    public static void UeventVariablesFailed(ILogger log, string device, Exception error)
    {
        var (level, reason, bug) = Weigh(error);
        UeventVariablesFailed(log, level, device, reason, bug);
    }

    [LoggerMessage(EventId = 201, Message = "{Device}: the variables of its event could not be made; the event has none: {Reason}")]
    private static partial void UeventVariablesFailed(ILogger log, LogLevel level, string device, string reason, Exception? bug);

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

    [LoggerMessage(402, LogLevel.Warning, "{Device}: a runtime use was given up that nobody had taken; the count stays 0")]
    public static partial void UsageUnderflow(ILogger log, string device);

    // An order that was given up; a device that has gone meanwhile; another refusal, which says in a sentence what the matter is; a bug.
    private static (LogLevel Level, string Reason, Exception? Bug) Weigh(Exception error) => error switch
    {
        OperationCanceledException => (LogLevel.Debug, "it was given up", null),
        AggregateException { InnerExceptions: [var only] } => Weigh(only),
        VirtbusException v when !IsExpected(v) => (LogLevel.Error, $"{v.Message} ({v.Errno})", v),
        VirtbusException { Errno: Errno.ENODEV or Errno.ENXIO or Errno.ECANCELED } gone => (LogLevel.Information, $"{gone.Message} ({gone.Errno})", null),
        VirtbusException refusal => (LogLevel.Warning, $"{refusal.Message} ({refusal.Errno})", null),
        _ => (LogLevel.Error, error.Message, error),
    };

    // A refusal may carry a bug of somebody else's.
    private static bool IsExpected(Exception error) => error switch
    {
        OperationCanceledException or IOException or UnauthorizedAccessException or TimeoutException or System.Net.Sockets.SocketException => true,
        VirtbusException { InnerException: { } inner } => IsExpected(inner),
        VirtbusException => true,
        _ => false,
    };
}
