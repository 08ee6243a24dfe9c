using System.Runtime.InteropServices;

namespace Virtbus.Platform;

/// <summary>Who owns a file or folder, which .NET does not tell.</summary>
public static partial class FileOwner
{
    private const int AtCurrentFolder = -100;
    private const int AtSymlinkNoFollow = 0x100;
    private const uint StatxUid = 0x8;
    private const int UidOffset = 20;
    private const int StatxSize = 256;

    /// <summary>The user id that this process acts with.</summary>
    public static uint CurrentUser => GetEffectiveUserId();

    /// <summary>The group id that this process acts with.</summary>
    public static uint CurrentGroup => GetEffectiveGroupId();

    /// <summary>The owner's user id; a link at the end of the path is not followed.</summary>
    /// <param name="path">A file or folder.</param>
    /// <exception cref="VirtbusException">The path can't be looked at; the errno is the host's.</exception>
    public static uint Of(string path)
    {
        ArgumentNullException.ThrowIfNull(path);
        var buffer = new byte[StatxSize];
        if (Statx(AtCurrentFolder, path, AtSymlinkNoFollow, StatxUid, buffer) != 0)
        {
            var errno = (Errno)Marshal.GetLastPInvokeError();
            throw new VirtbusException(errno, $"{path} can't be looked at: {errno}. Check that it exists and that its folders may be entered.");
        }
        return BitConverter.ToUInt32(buffer, UidOffset);
    }

    // The layout of struct statx is the same on every architecture (statx(2)); that of struct stat is not.
    [LibraryImport("libc", EntryPoint = "statx", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Statx(int folder, string path, int flags, uint mask, byte[] buffer);

    [LibraryImport("libc", EntryPoint = "geteuid")]
    private static partial uint GetEffectiveUserId();

    [LibraryImport("libc", EntryPoint = "getegid")]
    private static partial uint GetEffectiveGroupId();
}
