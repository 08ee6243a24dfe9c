namespace Virtbus.Platform;

/// <summary>A file that is only ever appended to (O_APPEND), by this process and by others that have it open. One thread uses it.</summary>
public sealed class AppendFile : IDisposable
{
    private readonly FileDescriptor _file;

    private AppendFile(FileDescriptor file, long length)
    {
        _file = file;
        Length = length;
    }

    /// <summary>How long it was when it was opened, and what was written to it here since, in bytes.</summary>
    public long Length { get; private set; }

    /// <summary>Opens a file, or makes it, for its owner only.</summary>
    /// <param name="path">The file.</param>
    /// <param name="error">The errno when the answer is null.</param>
    /// <returns>The file, or null.</returns>
    public static AppendFile? TryOpen(string path, out Errno error)
    {
        const int WriteOnly = 1, Create = 0x40, Append = 0x400;
        var number = Libc.open(path, WriteOnly | Create | Append | Libc.O_CLOEXEC, 0x180);
        error = number < 0 ? Libc.LastError : Errno.None;
        if (number < 0)
            return null;
        var file = new FileDescriptor(number);
        return new AppendFile(file, file.TryGetStatus(out var status) ? (long)status.Size : 0);
    }

    /// <summary>Writes at the end.</summary>
    /// <param name="bytes">The bytes.</param>
    /// <param name="error">The errno when the answer is false: ENOSPC, EFBIG, EDQUOT, EIO. A part of the bytes may have been written.</param>
    /// <returns>Whether all was written.</returns>
    public unsafe bool TryWrite(ReadOnlySpan<byte> bytes, out Errno error)
    {
        error = Errno.None;
        while (!bytes.IsEmpty)
        {
            // SAFETY: the bytes are pinned for the time of the call, which reads as many as said.
            fixed (byte* start = bytes)
            {
                var count = Libc.write(_file, start, (nuint)bytes.Length);
                if (count > 0)
                {
                    Length += count;
                    bytes = bytes[(int)count..];
                    continue;
                }

                error = count < 0 ? Libc.LastError : Errno.EIO;
                if (error != Errno.EINTR)
                    return false;
                error = Errno.None;
            }
        }

        return true;
    }

    /// <summary>Closes the file.</summary>
    public void Dispose() => _file.Dispose();
}
