using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>
/// The locks of single bytes by which QEMU and its tools keep off each other's images, beside the lock of the whole file, which they do not look
/// at: one byte says what its holder does with the image, another what nobody else is to do.
/// </summary>
internal static class ImageLocks
{
    private const int Does = 100;
    private const int Alone = 200;
    private const int Read = 0;
    private const int Write = 1;
    private const int Resize = 3;
    private const int Count = 104;

    /// <summary>Takes them for a reader or for the one writer. Where a file system has no such locks, there is nobody to keep off.</summary>
    /// <param name="file">The open file, whose they are.</param>
    /// <param name="writer">Whether it writes.</param>
    /// <returns>False when another program does what this one may not share. What was taken goes with the file.</returns>
    internal static bool TryTake(FileDescriptor file, bool writer)
    {
        // Own ones first: of two that begin at once each then sees the other.
        ReadOnlySpan<int> bytes = writer
            ? [Does + Read, Does + Write, Does + Resize, Alone + Write, Alone + Resize]
            : [Does + Read, Alone + Write, Alone + Resize];
        foreach (var at in bytes)
        {
            var error = file.ShareLock(at, 1);
            if (error != Errno.None)
                return error is not (Errno.EAGAIN or Errno.EACCES);
        }

        foreach (var at in bytes)
        {
            if (file.IsRangeLocked(at < Alone ? at - Does + Alone : at - Alone + Does, 1))
                return false;
        }

        return true;
    }

    /// <summary>Gives them back.</summary>
    /// <param name="file">The open file.</param>
    internal static void Release(FileDescriptor file) => file.UnlockRange(Does, Count);
}
