using Microsoft.Extensions.Logging;
using Virtbus.Platform;
using Virtbus.Wire.VfioUser;

namespace Virtbus.Transports.VfioUser;

/// <summary>What the vfio-user server logs. Event ids are stable: 1100 to 1199.</summary>
internal static partial class VfioUserLog
{
    [LoggerMessage(1100, LogLevel.Information, "vfio-user {Path}: listening")]
    internal static partial void Listening(ILogger logger, string path);

    [LoggerMessage(1101, LogLevel.Information, "vfio-user {Path}: stopped")]
    internal static partial void Stopped(ILogger logger, string path);

    [LoggerMessage(1102, LogLevel.Information, "vfio-user {Path}: client {Session} connected")]
    internal static partial void Connected(ILogger logger, string path, long session);

    [LoggerMessage(1103, LogLevel.Information, "vfio-user {Path}: client {Session} gone: {Reason}")]
    internal static partial void Disconnected(ILogger logger, string path, long session, string reason);

    [LoggerMessage(1104, LogLevel.Warning, "vfio-user {Path}: client {Session} sent a {Command} that was refused: {Errno}, {Message}; {Answer} ({Suppressed} lines like this left out)")]
    internal static partial void BadMessage(
        ILogger logger, string path, long session, VfioUserCommand command, Errno errno, string message, string answer, long suppressed);

    [LoggerMessage(1105, LogLevel.Warning, "vfio-user {Path}: client {Session} is turned away: {Errno}, {Message}")]
    internal static partial void TurnedAway(ILogger logger, string path, long session, Errno errno, string message);

    [LoggerMessage(1106, LogLevel.Information, "vfio-user {Path}: client {Session} does not send each message on its own; its headers are read one by one from here on")]
    internal static partial void HeaderByHeader(ILogger logger, string path, long session);

    [LoggerMessage(1107, LogLevel.Error, "vfio-user {Path}: client {Session} dropped by a failure of this side")]
    internal static partial void SessionFailed(ILogger logger, Exception exception, string path, long session);

    [LoggerMessage(1108, LogLevel.Error, "vfio-user {Path}: no connection can be accepted: {Errno}; it waits, and is tried again each second")]
    internal static partial void AcceptFailed(ILogger logger, string path, Errno errno);

    [LoggerMessage(1109, LogLevel.Debug, "vfio-user {Path}: client {Session} {Command} flags 0x{Flags:x} size {Size} descriptors {Descriptors}")]
    internal static partial void Received(
        ILogger logger, string path, long session, VfioUserCommand command, uint flags, int size, int descriptors);

    [LoggerMessage(1110, LogLevel.Information, "vfio-user {Path}: memory of client {Session} is not sealed against shrinking: shrinking it ends this process. Use memory-backend-memfd in QEMU")]
    internal static partial void Unsealed(ILogger logger, string path, long session);

    [LoggerMessage(1113, LogLevel.Warning, "vfio-user {Path}: {Suppressed} lines left out before this")]
    internal static partial void LeftOut(ILogger logger, string path, long suppressed);

    [LoggerMessage(1112, LogLevel.Warning, "vfio-user {Path}: memory of client {Session} is gone: its file was shrunk, or the host has no page for it. Its connection is closed")]
    internal static partial void MemoryLost(ILogger logger, string path, long session);

    [LoggerMessage(1111, LogLevel.Information, "vfio-user {Path}: client {Session} shares no memory, so the device reaches it by messages, which is slow; to share it, " + ConnectedPeer.ShareMemory)]
    internal static partial void MessageDma(ILogger logger, string path, long session);

    [LoggerMessage(1115, LogLevel.Warning, "vfio-user: device {Device} is not offered: {Reason}")]
    internal static partial void NotOffered(ILogger logger, string device, string reason);
}
