namespace Virtbus.Platform;

/// <summary>
/// An open <c>/dev/fuse</c>: a mount's end that answers. One read gives one request of the kernel, one write is one answer or notice. Any threads; a
/// request is answered by the file that it was read from.
/// </summary>
public sealed class FuseFile : IDisposable
{
    private const string Node = "/dev/fuse";
    private const nuint FUSE_DEV_IOC_CLONE = 0x8004E500;

    private readonly FileDescriptor _file;

    private FuseFile(FileDescriptor file) => _file = file;

    /// <summary>The open file, to wait on for a request. It belongs to this object.</summary>
    public FileDescriptor Descriptor => _file;

    /// <summary>Opens one that no mount has yet.</summary>
    /// <param name="error">The errno when the answer is null: ENOENT or ENODEV where the host has no FUSE, EACCES where only root may.</param>
    public static FileDescriptor? TryOpen(out Errno error) => FileDescriptor.TryOpen(Node, writable: true, out error);

    /// <summary>Takes one over that a mount has.</summary>
    /// <param name="file">The descriptor, this object's from here on; made non-blocking.</param>
    public static FuseFile Adopt(FileDescriptor file)
    {
        ArgumentNullException.ThrowIfNull(file);
        var flags = Libc.fcntl(file, Libc.F_GETFL, 0);
        _ = Libc.fcntl(file, Libc.F_SETFL, flags | Libc.O_NONBLOCK);
        return new FuseFile(file);
    }

    /// <summary>Opens the same mount's end once more, for another thread.</summary>
    /// <returns>Null when the host does not do it: who serves a mount that somebody else made may not be allowed to open the node.</returns>
    public unsafe FuseFile? TryClone()
    {
        using var number = _file.Duplicate();
        if (FileDescriptor.TryOpen(Node, writable: true, out _) is not { } clone)
            return null;
        var source = (uint)number.Number;
        // SAFETY: the argument is a local of four bytes, as the request says.
        if (Libc.ioctl(clone, FUSE_DEV_IOC_CLONE, &source) == 0)
            return Adopt(clone);
        clone.Dispose();
        return null;
    }

    /// <summary>Reads a request.</summary>
    /// <param name="buffer">Where to; with less room than the longest request (8 KiB, or a write's bytes and 4 KiB) nothing is read.</param>
    /// <param name="error">The errno when the answer is negative: EAGAIN: none is there; ENOENT: one was, and was given up; ENODEV: it is mounted no more.</param>
    /// <returns>Bytes of the request, or -1.</returns>
    public unsafe int Read(Span<byte> buffer, out Errno error)
    {
        // SAFETY: the span is pinned for the call, and the kernel writes at most its length.
        fixed (byte* start = buffer)
        {
            var count = (int)Libc.read(_file, start, (nuint)buffer.Length);
            error = count < 0 ? Libc.LastError : Errno.None;
            return count;
        }
    }

    /// <summary>Writes an answer or a notice, whole.</summary>
    /// <param name="message">It.</param>
    /// <returns>None; ENOENT: nobody waits for that answer any more, or the kernel knows nothing of what a notice names; ENODEV: it is mounted no more.</returns>
    public unsafe Errno Write(ReadOnlySpan<byte> message)
    {
        // SAFETY: the span is pinned for the call, and the kernel reads its length.
        fixed (byte* start = message)
            return Libc.write(_file, start, (nuint)message.Length) < 0 ? Libc.LastError : Errno.None;
    }

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();
}
