using Microsoft.Extensions.Logging;
using Virtbus.Platform;
using Virtbus.Wire.VhostUser;

namespace Virtbus.Transports.VhostUser;

/// <summary>What the vhost-user server logs. Event ids are stable: 1000 to 1099.</summary>
internal static partial class VhostUserLog
{
    [LoggerMessage(1000, LogLevel.Information, "vhost-user {Path}: listening")]
    internal static partial void Listening(ILogger logger, string path);

    [LoggerMessage(1001, LogLevel.Information, "vhost-user {Path}: stopped")]
    internal static partial void Stopped(ILogger logger, string path);

    [LoggerMessage(1002, LogLevel.Information, "vhost-user {Path}: front end {Session} connected")]
    internal static partial void Connected(ILogger logger, string path, long session);

    [LoggerMessage(1003, LogLevel.Information, "vhost-user {Path}: front end {Session} gone: {Reason}")]
    internal static partial void Disconnected(ILogger logger, string path, long session, string reason);

    [LoggerMessage(1004, LogLevel.Warning, "vhost-user {Path}: front end {Session} sent a bad {Request}: {Errno}, {Message}; {Answer} ({Suppressed} lines like this left out)")]
    internal static partial void BadMessage(
        ILogger logger, string path, long session, VhostUserRequest request, Errno errno, string message, string answer, long suppressed);

    [LoggerMessage(1005, LogLevel.Warning, "vhost-user {Path}: queue {Queue} stopped by a ring error: {Errno}, {Message} ({Suppressed} lines like this left out)")]
    internal static partial void QueueBroken(ILogger logger, string path, int queue, Errno errno, string message, long suppressed);

    [LoggerMessage(1006, LogLevel.Information, "vhost-user {Path}: queue {Queue} waits for its memory")]
    internal static partial void QueueWaits(ILogger logger, string path, int queue);

    [LoggerMessage(1007, LogLevel.Error, "vhost-user {Path}: front end {Session} dropped by a failure of this side")]
    internal static partial void SessionFailed(ILogger logger, Exception exception, string path, long session);

    [LoggerMessage(1008, LogLevel.Error, "vhost-user {Path}: no connection can be accepted: {Errno}; it waits, and is tried again each second")]
    internal static partial void AcceptFailed(ILogger logger, string path, Errno errno);

    [LoggerMessage(1009, LogLevel.Debug, "vhost-user {Path}: front end {Session} {Request} flags 0x{Flags:x} size {Size} descriptors {Descriptors}")]
    internal static partial void Received(
        ILogger logger, string path, long session, VhostUserRequest request, uint flags, int size, int descriptors);

    [LoggerMessage(1010, LogLevel.Information, "vhost-user {Path}: memory of front end {Session} is not sealed against shrinking: shrinking it ends this process. Use memory-backend-memfd in QEMU")]
    internal static partial void Unsealed(ILogger logger, string path, long session);

    [LoggerMessage(1013, LogLevel.Warning, "vhost-user {Path}: {Suppressed} lines left out before this")]
    internal static partial void LeftOut(ILogger logger, string path, long suppressed);

    [LoggerMessage(1016, LogLevel.Warning, "vhost-user {Path}: front end {Session} shares no memory, so the device can't reach its rings: " + ConnectedPeer.ShareMemory + " ({Suppressed} lines like this left out)")]
    internal static partial void Unshared(ILogger logger, string path, long session, long suppressed);

    [LoggerMessage(1011, LogLevel.Warning, "vhost-user {Path}: memory of front end {Session} is gone: its file was shrunk, or the host has no page for it. Its connection is closed")]
    internal static partial void MemoryLost(ILogger logger, string path, long session);

    [LoggerMessage(1012, LogLevel.Warning, "vhost-user {Path}: front end {Session} is turned away: {Errno}, {Message} ({Suppressed} lines like this left out)")]
    internal static partial void TurnedAway(ILogger logger, string path, long session, Errno errno, string message, long suppressed);

    [LoggerMessage(1015, LogLevel.Warning, "vhost-user: device {Device} is not offered: {Reason}")]
    internal static partial void NotOffered(ILogger logger, string device, string reason);
}
