using System.Runtime.InteropServices;

namespace Virtbus.Platform;

/// <summary>
/// A shared mapping of a file (mmap), unmapped once. Whoever uses the memory holds this handle, directly or counted.
/// </summary>
/// <remarks>
/// A file that shrinks under a mapping makes an access beyond its new end fault (SIGBUS), which ends the process. A peer that sends a file
/// sealed with F_SEAL_SHRINK cannot do it (<see cref="FileDescriptor.CannotShrink"/>). For an unsealed file the size is checked when it is
/// mapped and the rest is trust in the peer; accesses that the kernel makes (preadv, pwritev) answer EFAULT in place of the signal.
/// </remarks>
public sealed class Mapping : SafeHandle
{
    private readonly nuint _length;

    private Mapping(nint address, nuint length)
        : base(-1, ownsHandle: true)
    {
        _length = length;
        SetHandle(address);
    }

    /// <inheritdoc/>
    public override bool IsInvalid => handle is -1 or 0;

    /// <summary>Host virtual address of the first byte.</summary>
    public nint Address => handle;

    /// <summary>Length in bytes, as mapped.</summary>
    public nuint Length => _length;

    /// <summary>Maps part of a file, shared.</summary>
    /// <param name="file">The file; it may be closed afterwards.</param>
    /// <param name="offset">Byte offset in the file, a multiple of its page size.</param>
    /// <param name="length">Length in bytes, above 0.</param>
    /// <param name="writable">Whether the memory may be written.</param>
    /// <param name="error">The errno when the answer is null: EINVAL, ENOMEM, EACCES, ENODEV.</param>
    /// <returns>The mapping, or null.</returns>
    public static Mapping? TryMap(FileDescriptor file, ulong offset, nuint length, bool writable, out Errno error)
    {
        var protection = writable ? Libc.PROT_READ | Libc.PROT_WRITE : Libc.PROT_READ;
        var address = Libc.mmap(0, length, protection, Libc.MAP_SHARED | Libc.MAP_NORESERVE, file, (long)offset);
        error = address == -1 ? Libc.LastError : Errno.None;
        return address == -1 ? null : new Mapping(address, length);
    }

    /// <inheritdoc/>
    protected override bool ReleaseHandle() => Libc.munmap(handle, _length) == 0;
}
