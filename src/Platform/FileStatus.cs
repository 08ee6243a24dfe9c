namespace Virtbus.Platform;

/// <summary>What the kernel says of a file (statx).</summary>
/// <param name="Kind">What it is.</param>
/// <param name="Size">Size in bytes; 0 for what has none.</param>
/// <param name="BlockSize">Preferred block size in bytes; on hugetlbfs the size of its pages.</param>
/// <param name="Device">The file system that it is on.</param>
/// <param name="Inode">Its number there; with <paramref name="Device"/> the identity of the file.</param>
/// <param name="Born">When it was made, in nanoseconds since 1970; 0 where the file system does not say. A number may be used again, the moment not.</param>
public readonly record struct FileStatus(FileKind Kind, ulong Size, uint BlockSize, ulong Device, ulong Inode, long Born)
{
    /// <summary>Looks at a path, not following a symbolic link at its end.</summary>
    /// <param name="path">The path.</param>
    /// <param name="status">What was found.</param>
    /// <param name="error">The errno when the answer is false.</param>
    /// <returns>Whether there is something to describe.</returns>
    public static bool TryGet(string path, out FileStatus status, out Errno error) => TryGet(path, Libc.AT_SYMLINK_NOFOLLOW, out status, out error);

    /// <summary>Looks at what a path leads to, through symbolic links.</summary>
    /// <param name="path">The path.</param>
    /// <param name="status">What was found.</param>
    /// <param name="error">The errno when the answer is false; ENOENT and ENOTDIR say that nothing is there, EACCES that this user may not see it.</param>
    /// <returns>Whether there is something to describe.</returns>
    public static bool TryGetTarget(string path, out FileStatus status, out Errno error) => TryGet(path, 0, out status, out error);

    private static unsafe bool TryGet(string path, int flags, out FileStatus status, out Errno error)
    {
        StatxBuffer buffer;
        // SAFETY: the buffer is a local of the 256 bytes that statx writes.
        var result = Libc.statx(Libc.AT_FDCWD, path, flags, Libc.STATX_BASIC_STATS | Libc.STATX_BTIME, &buffer);
        error = result == 0 ? Errno.None : Libc.LastError;
        status = result == 0 ? From(buffer) : default;
        return result == 0;
    }

    internal static FileStatus From(StatxBuffer buffer)
    {
        var kind = (FileKind)(buffer.Mode & 0xf000);
        return new FileStatus(
            Enum.IsDefined(kind) ? kind : FileKind.Other,
            buffer.Size,
            buffer.BlockSize,
            ((ulong)buffer.DeviceMajor << 32) | buffer.DeviceMinor,
            buffer.Inode,
            (buffer.Mask & Libc.STATX_BTIME) != 0 ? (buffer.BirthSeconds * 1_000_000_000) + buffer.BirthNanoseconds : 0);
    }
}
