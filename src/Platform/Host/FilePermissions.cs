namespace Virtbus.Platform;

/// <summary>Who may do what with a file, as its mode says (statx).</summary>
/// <param name="Kind">What it is.</param>
/// <param name="Owner">The owner's user id.</param>
/// <param name="Group">The id of its group.</param>
/// <param name="Mode">What owner, group and others may do.</param>
public readonly record struct FilePermissions(FileKind Kind, uint Owner, uint Group, UnixFileMode Mode)
{
    private const int ModeBits = 0xfff;

    /// <summary>Looks at a path. Nothing is opened, so what would wait when it is opened (a pipe, a device) does not.</summary>
    /// <param name="path">The path.</param>
    /// <param name="follow">Whether a symbolic link at its end is followed.</param>
    /// <param name="permissions">What was found.</param>
    /// <param name="error">The errno when the answer is false.</param>
    /// <returns>Whether there is something to describe.</returns>
    public static unsafe bool TryGet(string path, bool follow, out FilePermissions permissions, out Errno error)
    {
        ArgumentNullException.ThrowIfNull(path);
        StatxBuffer buffer;
        // SAFETY: the buffer is a local of the 256 bytes that statx writes.
        var result = Libc.statx(Libc.AT_FDCWD, path, follow ? 0 : Libc.AT_SYMLINK_NOFOLLOW, Libc.STATX_BASIC_STATS, &buffer);
        error = result == 0 ? Errno.None : Libc.LastError;
        permissions = result == 0
            ? new FilePermissions(FileStatus.From(buffer).Kind, buffer.Owner, buffer.Group, (UnixFileMode)(buffer.Mode & ModeBits))
            : default;
        return result == 0;
    }
}
