using System.Runtime.InteropServices;

namespace Virtbus.Platform;

/// <summary>
/// A shared mapping of a file (mmap), unmapped once. Whoever uses the memory holds this handle, directly or counted.
/// </summary>
/// <remarks>
/// A file that shrinks under a mapping makes an access beyond its new end fault (SIGBUS), which ends the process. A peer that sends a file
/// sealed with F_SEAL_SHRINK cannot do it (<see cref="FileDescriptor.TrySealShrink"/>); for others there is a guard, on machines that have
/// one (<see cref="IsGuardSupported"/>). Accesses that the kernel makes (preadv, pwritev) answer EFAULT in place of the signal.
/// </remarks>
public sealed class Mapping : SafeHandle
{
    private readonly nuint _length;
    private int _guard = -1;

    private Mapping(nint address, nuint length)
        : base(-1, ownsHandle: true)
    {
        _length = length;
        SetHandle(address);
    }

    /// <inheritdoc/>
    public override bool IsInvalid => handle is -1 or 0;

    /// <summary>Whether a guarded mapping outlives its file's shrinking: on x86-64.</summary>
    public static bool IsGuardSupported => MappingGuard.IsSupported;

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
    /// <param name="lost">
    /// For a file that a peer can shrink: the mapping is guarded, and when an access found no page, all of it has become zeros, which are
    /// no longer shared, and this is called. Once, on a thread of its own; it has to be short.
    /// </param>
    /// <returns>The mapping, or null.</returns>
    public static Mapping? TryMap(FileDescriptor file, ulong offset, nuint length, bool writable, out Errno error, Action? lost = null)
    {
        var protection = writable ? Libc.PROT_READ | Libc.PROT_WRITE : Libc.PROT_READ;
        var address = Libc.mmap(0, length, protection, Libc.MAP_SHARED | Libc.MAP_NORESERVE, file, (long)offset);
        error = address == -1 ? Libc.LastError : Errno.None;
        if (address == -1)
            return null;
        var mapping = new Mapping(address, length);
        if (lost is null || MappingGuard.TryAdd(address, length, lost, out mapping._guard))
            return mapping;
        mapping.Dispose();
        error = Errno.ENOMEM;
        return null;
    }

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        // Before the addresses can be somebody else's.
        if (_guard >= 0)
            MappingGuard.Remove(_guard);
        return Libc.munmap(handle, _length) == 0;
    }
}
