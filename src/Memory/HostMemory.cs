using System.Runtime.Intrinsics.X86;
using Virtbus.Platform;

namespace Virtbus.Memory;

/// <summary>
/// Shared memory of a file, mapped here, with the exact size that its owner named (the mapping itself is rounded up to whole pages).
/// Reference counted: unmapped when the last holder disposes its reference. Safe from any thread.
/// </summary>
public sealed class HostMemory : IDisposable
{
    private const ulong MaxPageSize = 1UL << 30;

    private static readonly Fault NoMemoryFile = new(Errno.EBADF,
        "the region's descriptor is no file in memory, which alone is mapped (memfd, tmpfs, hugetlbfs): in QEMU use memory-backend-memfd, or memory-backend-file with a path on /dev/shm or hugetlbfs");

    private readonly MappedFile _mapped;
    private readonly MappingAccount _account;
    private int _references = 1;

    private HostMemory(MappedFile mapped, MappingAccount account, ulong offset, ulong size, DmaAccess access, FileDescriptor? file)
    {
        _mapped = mapped;
        _account = account;
        File = file;
        FileOffset = offset;
        Address = mapped.Address + (nint)(offset - mapped.Start);
        Size = size;
        Access = access;
    }

    /// <summary>Size in bytes.</summary>
    public ulong Size { get; }

    /// <summary>What the mapping allows.</summary>
    public DmaAccess Access { get; }

    /// <summary>The file, if it was kept, to be handed to a peer; closed with the last reference.</summary>
    public FileDescriptor? File { get; }

    /// <summary>Where in the file the memory begins.</summary>
    public ulong FileOffset { get; }

    internal nint Address { get; }

    /// <summary>
    /// Maps part of a file that a peer sent. Parts of one file share a mapping, those of other accounts too, where the descriptor allows what
    /// that mapping allows.
    /// </summary>
    /// <param name="account">The peer's account.</param>
    /// <param name="file">The file; it may be closed afterwards.</param>
    /// <param name="offset">Byte offset of the memory in the file; any.</param>
    /// <param name="size">Size in bytes, above 0; any.</param>
    /// <param name="access">What will be done with it.</param>
    /// <param name="memory">The memory, with one reference that belongs to the caller.</param>
    /// <param name="fault">
    /// EINVAL for a size of zero or a sum that overflows; EBADF for what is no file in memory; ENXIO when the file is shorter (there is nothing
    /// to access beyond its end); EACCES when the descriptor or a seal does not allow the access; ENOSPC when the budget is used up; what mmap
    /// answered.
    /// </param>
    /// <returns>Whether it is mapped.</returns>
    public static bool TryMap(
        MappingAccount account, FileDescriptor file, ulong offset, ulong size, DmaAccess access, out HostMemory? memory, out Fault fault)
    {
        memory = null;
        if (!TryLookAt(file, offset, size, access, out var status, out var part, out var page, out fault) ||
            !account.Budget.Files.TryTake(account, file, status, part, page, access.HasFlag(DmaAccess.Write), out var mapped, out fault))
            return false;
        memory = new HostMemory(mapped!, account, offset, size, access, null);
        return true;
    }

    /// <summary>Maps part of a file for its one holder: memory of this process's own, or what a server offered to its client.</summary>
    /// <param name="file">The file; it may be closed afterwards.</param>
    /// <param name="offset">Byte offset of the memory in the file; any.</param>
    /// <param name="size">Size in bytes, above 0; any.</param>
    /// <param name="access">What will be done with it.</param>
    /// <param name="memory">The memory, with one reference that belongs to the caller.</param>
    /// <param name="fault">As the other one; EMFILE.</param>
    /// <param name="keepFile">Whether <see cref="File"/> is a duplicate of the descriptor; else it is null.</param>
    /// <returns>Whether it is mapped.</returns>
    /// <remarks>Who cuts such a file ends this process at the next access: for files that nobody else can cut, or of who is trusted with that.</remarks>
    public static bool TryMap(
        FileDescriptor file, ulong offset, ulong size, DmaAccess access, out HostMemory? memory, out Fault fault, bool keepFile = false)
    {
        memory = null;
        if (!TryLookAt(file, offset, size, access, out _, out var part, out _, out fault))
            return false;
        var account = MappingBudget.Own;
        var length = part.End - part.First;
        if (!account.Budget.TryCharge(account, length, out fault))
            return false;
        var mapped = new MappedFile(account, part.First, length);
        if (!mapped.TryMap(file, access.HasFlag(DmaAccess.Write), out var error))
        {
            mapped.Unmap();
            fault = new Fault(error, "the host refused to map the region");
            return false;
        }

        try
        {
            memory = new HostMemory(mapped, account, offset, size, access, keepFile ? file.Duplicate() : null);
            return true;
        }
        catch (VirtbusException)
        {
            mapped.Unmap();
            fault = new Fault(Errno.EMFILE, "no descriptor is left to keep the region's file");
            return false;
        }
    }

    /// <summary>Makes memory of the host's own, zero filled, together with a descriptor by which a peer can map it too.</summary>
    /// <param name="name">What /proc shows for it.</param>
    /// <param name="size">Size in bytes, above 0.</param>
    /// <param name="file">The descriptor, owned by the caller.</param>
    /// <returns>The memory, with one reference that belongs to the caller.</returns>
    /// <exception cref="VirtbusException">The host has no memory or no descriptor left.</exception>
    public static HostMemory Allocate(string name, ulong size, out FileDescriptor file)
    {
        file = MemoryFile.Create(name, size);
        if (TryMap(file, 0, size, DmaAccess.ReadWrite, out var memory, out var fault))
            return memory!;
        file.Dispose();
        throw new VirtbusException(fault.Errno, $"Memory '{name}' of {size} bytes cannot be mapped: {fault.Message}. Ask for another size.");
    }

    /// <summary>Takes one more reference, to be given back by <see cref="Dispose"/>.</summary>
    /// <returns>This object.</returns>
    /// <exception cref="ObjectDisposedException">The last reference was gone already.</exception>
    public HostMemory Acquire()
    {
        while (true)
        {
            var seen = Volatile.Read(ref _references);
            ObjectDisposedException.ThrowIf(seen == 0, this);
            if (Interlocked.CompareExchange(ref _references, seen + 1, seen) == seen)
                return this;
        }
    }

    /// <summary>Copies out of the memory.</summary>
    /// <param name="offset">Byte offset in the memory.</param>
    /// <param name="destination">Where to; the range has to lie inside.</param>
    public void Read(ulong offset, Span<byte> destination) => Run(offset, destination.Length).CopyTo(destination);

    /// <summary>Copies into the memory.</summary>
    /// <param name="offset">Byte offset in the memory.</param>
    /// <param name="source">Where from; the range has to lie inside.</param>
    public void Write(ulong offset, ReadOnlySpan<byte> source) => source.CopyTo(Run(offset, source.Length));

    /// <summary>Names a part of the memory, for who hands it on.</summary>
    /// <param name="offset">Byte offset in the memory.</param>
    /// <param name="length">How many bytes; they have to lie inside.</param>
    /// <returns>The run, valid as long as the caller holds a reference.</returns>
    public IoVector Take(ulong offset, int length)
    {
        Run(offset, length);
        return new IoVector(Address + (nint)offset, (nuint)length);
    }

    /// <summary>Has the processor bring a cache line that is read soon, while it goes on; where it can't, nothing happens.</summary>
    /// <param name="offset">Byte offset of any byte of it.</param>
    public unsafe void Prefetch(ulong offset)
    {
        // SAFETY: a prefetch reads nothing and faults nowhere.
        if (Sse.IsSupported)
            Sse.Prefetch0((byte*)Address + offset);
    }

    /// <summary>Gives one reference back; the last one unmaps the memory, if nobody else has a part of its mapping.</summary>
    public void Dispose()
    {
        var left = Interlocked.Decrement(ref _references);
        if (left == 0)
        {
            _mapped.Release(_account);
            File?.Dispose();
        }
        else if (left < 0)
            throw new InvalidOperationException("A reference to host memory was given back twice.");
    }

    private static bool TryLookAt(
        FileDescriptor file, ulong offset, ulong size, DmaAccess access, out FileStatus status, out (ulong First, ulong End) part, out ulong page, out Fault fault)
    {
        status = default;
        part = default;
        page = 0;
        fault = Fault.None;
        if (size == 0)
            fault = new Fault(Errno.EINVAL, "the region has no size");
        else if (size > long.MaxValue || offset > (ulong)long.MaxValue - size)
            fault = new Fault(Errno.EINVAL, "the region's offset and size overflow");
        else if (!file.TryGetMemoryStatus(out var found))
            fault = NoMemoryFile;
        else if (found.File.Size < offset + size)
            fault = new Fault(Errno.ENXIO, "the region is larger than its file");
        else if (!found.CanRead || (access.HasFlag(DmaAccess.Write) && !found.CanWrite))
            fault = new Fault(Errno.EACCES, "the region's descriptor, or a seal of its file, does not allow the access: open it for reading and writing");
        else
            status = found.File;
        if (fault != Fault.None)
            return false;
        // On hugetlbfs offset and length have to be whole huge pages, and st_blksize is the size of one.
        page = Math.Max((ulong)Environment.SystemPageSize, status.BlockSize);
        if (!ulong.IsPow2(page) || page > MaxPageSize)
            page = (ulong)Environment.SystemPageSize;
        part = (offset & ~(page - 1), (offset + size + page - 1) & ~(page - 1));
        return true;
    }

    /// <summary>Part of the memory, checked; not to be kept.</summary>
    internal Span<byte> Run(ulong offset, int length)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(offset, Size, nameof(offset));
        ArgumentOutOfRangeException.ThrowIfGreaterThan((ulong)length, Size - offset, nameof(length));
        ObjectDisposedException.ThrowIf(Volatile.Read(ref _references) == 0, this);
        return new IoVector(Address + (nint)offset, (nuint)length).AsSpan();
    }
}
