using Microsoft.Extensions.Logging;

namespace Virtbus.Transports.Fuse;

/// <summary>What mounts log. Event ids are stable: 1700 to 1799.</summary>
internal static partial class FuseLog
{
    [LoggerMessage(1700, LogLevel.Information, "Tree mounted on {Folder} for user {User}")]
    internal static partial void Mounted(ILogger logger, string folder, uint user);

    [LoggerMessage(1701, LogLevel.Information, "Mount {Folder} is gone")]
    internal static partial void Gone(ILogger logger, string folder);

    [LoggerMessage(1702, LogLevel.Warning, "A message of {Length} bytes is no FUSE request; it is dropped ({Suppressed} lines like this left out)")]
    internal static partial void NoRequest(ILogger logger, int length, long suppressed);

    [LoggerMessage(1703, LogLevel.Error, "A FUSE request failed by a bug of this side ({Suppressed} lines like this left out)")]
    internal static partial void RequestFailed(ILogger logger, Exception exception, long suppressed);

    [LoggerMessage(1704, LogLevel.Error, "The host's FUSE is version {Major}.{Minor}; at least {OurMajor}.{OurMinor} is needed (Linux 3.15)")]
    internal static partial void TooOld(ILogger logger, uint major, uint minor, uint ourMajor, uint ourMinor);

    [LoggerMessage(1705, LogLevel.Warning, "{Path} can't take a connection: {Errno}; it is tried again ({Suppressed} lines like this left out)")]
    internal static partial void AcceptFailed(ILogger logger, string path, Virtbus.Platform.Errno errno, long suppressed);
}
