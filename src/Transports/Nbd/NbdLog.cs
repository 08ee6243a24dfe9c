using Microsoft.Extensions.Logging;
using Virtbus.Platform;

namespace Virtbus.Transports.Nbd;

/// <summary>What the NBD server logs. Event ids are stable: 1200 to 1299.</summary>
internal static partial class NbdLog
{
    [LoggerMessage(1200, LogLevel.Information, "NBD {Address}: listening")]
    internal static partial void Listening(ILogger logger, NbdAddress address);

    [LoggerMessage(1201, LogLevel.Information, "NBD {Address}: stopped")]
    internal static partial void Stopped(ILogger logger, NbdAddress address);

    [LoggerMessage(1202, LogLevel.Information, "NBD {Address}: client {Session} connected ({Suppressed} lines like this left out)")]
    internal static partial void Connected(ILogger logger, NbdAddress address, long session, long suppressed);

    [LoggerMessage(1203, LogLevel.Information, "NBD {Address}: client {Session} gone: {Reason}")]
    internal static partial void Disconnected(ILogger logger, NbdAddress address, long session, string reason);

    [LoggerMessage(1204, LogLevel.Error, "NBD {Address}: client {Session} dropped by a failure of this side")]
    internal static partial void SessionFailed(ILogger logger, Exception exception, NbdAddress address, long session);

    [LoggerMessage(1205, LogLevel.Error, "NBD {Address}: no connection can be accepted: {Errno}; it waits, and is tried again each second")]
    internal static partial void AcceptFailed(ILogger logger, NbdAddress address, Errno errno);

    [LoggerMessage(1206, LogLevel.Warning, "NBD {Address}: client {Session} is turned away: the process has as many connections of NBD clients as it takes")]
    internal static partial void TurnedAway(ILogger logger, NbdAddress address, long session);

    [LoggerMessage(1207, LogLevel.Warning, "NBD {Address}: other hosts can reach it, and nothing is encrypted")]
    internal static partial void Open(ILogger logger, NbdAddress address);
}
