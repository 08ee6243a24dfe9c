using System.Globalization;
using System.Runtime.InteropServices;

namespace Virtbus.Platform;

/// <summary>
/// An open file descriptor, closed once. Every descriptor that Virtbus holds is one of these, those that a peer sent included.
/// Safe to dispose while another thread is in a call on it: the close happens when that call returns. To dispose one that a peer sent does not
/// wait for its close (<see cref="PeerDescriptors"/>).
/// </summary>
public sealed class FileDescriptor : SafeHandle
{
    private readonly PeerDescriptors? _peers;
    private bool _closesAtOnce;

    /// <summary>Takes ownership of an open descriptor.</summary>
    /// <param name="number">The descriptor number; -1 makes an invalid handle.</param>
    public FileDescriptor(int number)
        : base(-1, ownsHandle: true) => SetHandle(number);

    /// <summary>Takes one over that a peer sent, or whose close can wait for what a peer sent.</summary>
    internal FileDescriptor(int number, PeerDescriptors peers)
        : this(number)
    {
        _peers = peers;
        peers.Add();
    }

    /// <summary>Among whose descriptors it counts; null for one of this process's own.</summary>
    internal PeerDescriptors? Peers => _peers;

    /// <summary>Says that its close waits for nothing. Only for one that a peer sent.</summary>
    internal void MarkClosesAtOnce() => _closesAtOnce = true;

    /// <inheritdoc/>
    public override bool IsInvalid => handle < 0;

    /// <summary>The descriptor number, for logs only.</summary>
    public int Number => (int)handle;

    /// <summary>Opens a file.</summary>
    /// <param name="path">Path of the file.</param>
    /// <param name="writable">Whether it is opened for writing too.</param>
    /// <param name="error">The errno when the answer is null; EINVAL where the file system has no direct transfers.</param>
    /// <param name="direct">Whether transfers pass the page cache by (O_DIRECT).</param>
    /// <returns>The descriptor, or null.</returns>
    public static FileDescriptor? TryOpen(string path, bool writable, out Errno error, bool direct = false)
    {
        var fd = Libc.open(path, (writable ? Libc.O_RDWR : Libc.O_RDONLY) | Libc.O_CLOEXEC | (direct ? Libc.O_DIRECT : 0), 0);
        error = fd < 0 ? Libc.LastError : Errno.None;
        return fd < 0 ? null : new FileDescriptor(fd);
    }

    /// <summary>Opens a regular file that is open for writing once more: another open file, with an offset, locks and errors of its own.</summary>
    /// <returns>The descriptor, owned by the caller; null when the host does not do it, for want of permission, of a descriptor or of /proc.</returns>
    public FileDescriptor? Reopen()
    {
        var isHeld = false;
        try
        {
            DangerousAddRef(ref isHeld);
            return TryOpen(string.Create(CultureInfo.InvariantCulture, $"/proc/self/fd/{Number}"), writable: true, out _);
        }
        finally
        {
            if (isHeld)
                DangerousRelease();
        }
    }

    /// <summary>Opens a file for writing, and makes it, for its owner only, when it is not there.</summary>
    /// <param name="path">Path of the file.</param>
    /// <param name="file">The descriptor, owned by the caller; null when that failed.</param>
    /// <returns>None, or the errno.</returns>
    public static Errno TryCreate(string path, out FileDescriptor? file)
    {
        const int OwnerOnly = 0x180;
        var fd = Libc.open(path, Libc.O_RDWR | Libc.O_CREAT | Libc.O_CLOEXEC, OwnerOnly);
        file = fd < 0 ? null : new FileDescriptor(fd);
        return fd < 0 ? Libc.LastError : Errno.None;
    }

    /// <summary>Takes a name out of its folder.</summary>
    /// <param name="path">Path of the file.</param>
    /// <returns>None, or the errno.</returns>
    public static Errno Unlink(string path) => Libc.unlink(path) == 0 ? Errno.None : Libc.LastError;

    /// <summary>Makes the names in a folder durable.</summary>
    /// <param name="folder">Path of the folder.</param>
    /// <param name="sync">What makes a folder durable; fdatasync when left out.</param>
    /// <returns>None, or the errno.</returns>
    public static Errno SyncFolder(string folder, Func<FileDescriptor, Errno>? sync = null)
    {
        using var opened = TryOpen(folder, writable: false, out var error);
        if (opened is null)
            return error;
        error = sync is null ? opened.SyncData() : sync(opened);
        // A file system that has nothing to write back for a folder answers that.
        return error == Errno.EINVAL ? Errno.None : error;
    }

    /// <summary>Makes a second descriptor of the same open file, closed on exec.</summary>
    /// <returns>The new descriptor, owned by the caller.</returns>
    /// <exception cref="VirtbusException">EMFILE: the process has no descriptor left.</exception>
    public FileDescriptor Duplicate()
    {
        var fd = Libc.fcntl(this, Libc.F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
            throw HostError.Make("duplicating a descriptor", Libc.LastError);
        return _peers is null ? new FileDescriptor(fd) : new FileDescriptor(fd, _peers) { _closesAtOnce = _closesAtOnce };
    }

    /// <summary>Makes a second descriptor of the same open file, that programs inherit which this process starts until it is disposed of.</summary>
    /// <returns>The new descriptor, owned by the caller.</returns>
    /// <exception cref="VirtbusException">EMFILE: the process has no descriptor left.</exception>
    public FileDescriptor DuplicateForChild()
    {
        var fd = Libc.fcntl(this, Libc.F_DUPFD, 3);
        return fd >= 0 ? new FileDescriptor(fd) : throw HostError.Make("duplicating a descriptor", Libc.LastError);
    }

    /// <summary>Reads kind, size and identity of the open file.</summary>
    /// <param name="status">What was found.</param>
    /// <returns>False when the kernel has no status for it.</returns>
    public unsafe bool TryGetStatus(out FileStatus status)
    {
        StatxBuffer buffer;
        byte empty = 0;
        // SAFETY: both pointers are to locals that outlive the call; the buffer has the 256 bytes that statx writes.
        var result = Libc.statx_fd(this, &empty, Libc.AT_EMPTY_PATH, Libc.STATX_BASIC_STATS | Libc.STATX_BTIME, &buffer);
        status = result == 0 ? FileStatus.From(buffer) : default;
        return result == 0;
    }

    /// <summary>
    /// Whether it is a file in memory: a memfd, or a file on tmpfs or hugetlbfs. Asks no file system, so it is safe for any descriptor of a peer;
    /// reading its status, or mapping it, would wait for as long as the peer likes if the peer is its file system (FUSE).
    /// </summary>
    public bool IsMemoryFile() => Libc.fcntl(this, Libc.F_GET_SEALS, 0) >= 0;

    /// <summary>Reads the status of a file in memory; of another file nothing is asked, as for <see cref="IsMemoryFile"/>.</summary>
    /// <param name="status">What was found.</param>
    /// <returns>False for any other kind of file.</returns>
    public bool TryGetMemoryStatus(out MemoryFileStatus status)
    {
        // F_SEAL_WRITE and F_SEAL_FUTURE_WRITE: no new mapping may write.
        const int SealWrite = 8 | 16;
        status = default;
        var seals = Libc.fcntl(this, Libc.F_GET_SEALS, 0);
        if (seals < 0 || !TryGetStatus(out var file) || file.Kind != FileKind.Regular)
            return false;
        var access = Libc.fcntl(this, Libc.F_GETFL, 0) & Libc.O_ACCMODE;
        status = new MemoryFileStatus(file, access is Libc.O_RDONLY or Libc.O_RDWR, access == Libc.O_RDWR && (seals & SealWrite) == 0);
        return true;
    }

    /// <summary>
    /// Makes sure that the file never shrinks, so that a mapping of it can never fault: F_SEAL_SHRINK is set already, or is set now.
    /// </summary>
    /// <returns>False for a file that cannot be sealed.</returns>
    public bool TrySealShrink()
    {
        const int SealShrink = 2;
        var seals = Libc.fcntl(this, Libc.F_GET_SEALS, 0);
        return seals >= 0 && ((seals & SealShrink) != 0 || Libc.fcntl(this, Libc.F_ADD_SEALS, SealShrink) == 0);
    }

    /// <summary>Whether the descriptor is an eventfd, by what the kernel calls it.</summary>
    /// <returns>False for any other kind of descriptor.</returns>
    public unsafe bool IsEventFd()
    {
        Span<byte> path = stackalloc byte[48];
        if (!System.Text.Unicode.Utf8.TryWrite(path[..^1], $"/proc/self/fd/{Number}", out var length))
            return false;
        path[length] = 0;
        Span<byte> target = stackalloc byte[64];
        // SAFETY: the path is NUL terminated within its 48 bytes, and readlink writes at most the 64 bytes that it is told of.
        fixed (byte* name = path)
        fixed (byte* answer = target)
        {
            var count = Libc.readlink(name, answer, (nuint)target.Length);
            if (count <= 0 || !target[..(int)count].SequenceEqual("anon_inode:[eventfd]"u8))
                return false;
            _closesAtOnce = true;
            return true;
        }
    }

    /// <summary>Takes the advisory lock of the file without waiting (flock): shared for a reader, exclusive for a writer.</summary>
    /// <param name="exclusive">Whether nobody else may hold it.</param>
    /// <returns>False when another open file holds it in a way that excludes this one.</returns>
    public bool TryLock(bool exclusive)
    {
        int result;
        do
            result = Libc.flock(this, (exclusive ? Libc.LOCK_EX : Libc.LOCK_SH) | Libc.LOCK_NB);
        while (result < 0 && Libc.LastError == Errno.EINTR);
        return result == 0;
    }

    /// <summary>
    /// Gives the advisory lock back. Closing does that too, but only when nothing else holds the open file, which a ring that is being torn
    /// down may for a while.
    /// </summary>
    public void Unlock() => _ = Libc.flock(this, Libc.LOCK_UN);

    /// <summary>
    /// Takes, shares with whoever has it too, the advisory lock of bytes of the file without waiting (F_OFD_SETLK). It is the open file's, and bytes
    /// beyond the end have one too.
    /// </summary>
    /// <param name="offset">The first byte.</param>
    /// <param name="length">How many.</param>
    /// <returns>None; EAGAIN when another open file has one of them alone; what else the file system answers, ENOLCK where it has no such locks.</returns>
    public Errno ShareLock(long offset, long length) => SetRangeLock(Libc.F_RDLCK, offset, length);

    /// <summary>Gives the advisory locks of bytes back.</summary>
    /// <param name="offset">The first byte.</param>
    /// <param name="length">How many.</param>
    public void UnlockRange(long offset, long length) => _ = SetRangeLock(Libc.F_UNLCK, offset, length);

    /// <summary>Whether another open file has the advisory lock of one of some bytes, alone or shared (F_OFD_GETLK).</summary>
    /// <param name="offset">The first byte.</param>
    /// <param name="length">How many.</param>
    /// <returns>False also where the file system has no such locks.</returns>
    public unsafe bool IsRangeLocked(long offset, long length)
    {
        var range = new FileRangeLock { Kind = Libc.F_WRLCK, Start = offset, Length = length };
        // SAFETY: the structure is a local that outlives the call, which writes into it.
        return Libc.fcntl(this, Libc.F_OFD_GETLK, (nint)(&range)) == 0 && range.Kind != Libc.F_UNLCK;
    }

    private unsafe Errno SetRangeLock(short kind, long offset, long length)
    {
        var range = new FileRangeLock { Kind = kind, Start = offset, Length = length };
        // SAFETY: the structure is a local that outlives the call.
        return Libc.fcntl(this, Libc.F_OFD_SETLK, (nint)(&range)) == 0 ? Errno.None : Libc.LastError;
    }

    /// <summary>Reads bytes of the file (pread).</summary>
    /// <param name="destination">Where to.</param>
    /// <param name="offset">Byte offset in the file.</param>
    /// <param name="error">The errno when the answer is negative.</param>
    /// <returns>Bytes read, fewer than asked for at the end of the file, or -1.</returns>
    public unsafe long Read(Span<byte> destination, long offset, out Errno error)
    {
        // SAFETY: the bytes are pinned for the time of the call, and the vector says how many they are.
        fixed (byte* bytes = destination)
            return ReadVectors([new IoVector((nint)bytes, (nuint)destination.Length)], offset, out error);
    }

    /// <summary>Reads from the file into host memory (preadv2), without a copy in between.</summary>
    /// <param name="vectors">Where the bytes go, in order; at most 1024.</param>
    /// <param name="offset">Byte offset in the file.</param>
    /// <param name="error">
    /// The errno when the answer is negative; EFAULT when the memory behind a vector is gone; with <paramref name="noWait"/> EAGAIN when the
    /// call would wait, and EOPNOTSUPP where the file system cannot say so.
    /// </param>
    /// <param name="noWait">Whether to read no more than what is in the page cache (RWF_NOWAIT).</param>
    /// <returns>Bytes read, fewer than asked for at the end of the file or of what is in the cache, or -1.</returns>
    public unsafe long ReadVectors(ReadOnlySpan<IoVector> vectors, long offset, out Errno error, bool noWait = false)
    {
        // SAFETY: the span pins the vectors; the memory behind each is checked by the kernel, which answers EFAULT and does not fault.
        fixed (IoVector* list = vectors)
        {
            nint count;
            do
            {
                count = Libc.preadv2(this, list, vectors.Length, offset, noWait ? Libc.RWF_NOWAIT : 0);
                error = count < 0 ? Libc.LastError : Errno.None;
            }
            while (error == Errno.EINTR);
            return count;
        }
    }

    /// <summary>Writes host memory to the file (pwritev2), without a copy in between.</summary>
    /// <param name="vectors">Where the bytes come from, in order; at most 1024.</param>
    /// <param name="offset">Byte offset in the file.</param>
    /// <param name="error">The errno when the answer is negative.</param>
    /// <param name="durable">Whether the call returns only when the bytes are durable (RWF_DSYNC).</param>
    /// <returns>Bytes written, or -1.</returns>
    public unsafe long WriteVectors(ReadOnlySpan<IoVector> vectors, long offset, out Errno error, bool durable = false)
    {
        // SAFETY: as in ReadVectors.
        fixed (IoVector* list = vectors)
        {
            nint count;
            do
            {
                count = Libc.pwritev2(this, list, vectors.Length, offset, durable ? Libc.RWF_DSYNC : 0);
                error = count < 0 ? Libc.LastError : Errno.None;
            }
            while (error == Errno.EINTR);
            return count;
        }
    }

    /// <summary>Makes what was written to the file durable (fdatasync).</summary>
    /// <returns>None, or the errno.</returns>
    public Errno SyncData()
    {
        while (true)
        {
            if (Libc.fdatasync(this) == 0)
                return Errno.None;
            if (Libc.LastError is var error and not Errno.EINTR)
                return error;
        }
    }

    /// <summary>Says whether the file has data at a place, or a hole there, which reads as zeros. Moves the open file's place.</summary>
    /// <param name="offset">Byte offset in the file.</param>
    /// <param name="end">Where that ends, above the offset; <see cref="long.MaxValue"/> when nothing comes after it, or nothing is known.</param>
    /// <returns>True for data, also where the file system does not know holes.</returns>
    public bool FindData(long offset, out long end)
    {
        end = long.MaxValue;
        var data = Libc.lseek(this, offset, Libc.SEEK_DATA);
        if (data > offset)
        {
            end = data;
            return false;
        }

        // Beyond the last data, or a file system without holes.
        if (data < 0)
            return Libc.LastError != Errno.ENXIO;
        if (Libc.lseek(this, offset, Libc.SEEK_HOLE) is var hole && hole > offset)
            end = hole;
        return true;
    }

    /// <summary>Gives room of the file back, or makes a part of it zeros (fallocate). Its size stays.</summary>
    /// <param name="what">Which of them.</param>
    /// <param name="offset">Byte offset in the file.</param>
    /// <param name="length">Length in bytes, above 0.</param>
    /// <returns>None, or the errno: EOPNOTSUPP where the file system cannot do it.</returns>
    public Errno Allocate(FileAllocation what, long offset, long length)
    {
        while (true)
        {
            if (Libc.fallocate(this, (int)what, offset, length) == 0)
                return Errno.None;
            if (Libc.LastError is var error and not Errno.EINTR)
                return error;
        }
    }

    /// <summary>Makes the file longer, with zeros, or shorter.</summary>
    /// <param name="length">Length in bytes.</param>
    /// <returns>None, or the errno.</returns>
    public Errno SetLength(long length) => Libc.ftruncate(this, length) == 0 ? Errno.None : Libc.LastError;

    /// <summary>Whether its file system keeps files in memory alone (tmpfs, ramfs), so that no transfer waits for a device.</summary>
    /// <returns>False when the kernel does not say.</returns>
    public unsafe bool IsOnMemoryFileSystem()
    {
        var buffer = stackalloc long[64];
        // SAFETY: struct statfs is at most 120 bytes on every 64-bit architecture, and f_type is its first word.
        return Libc.fstatfs(this, buffer) == 0 && buffer[0] is (Libc.TMPFS_MAGIC or Libc.RAMFS_MAGIC);
    }

    /// <summary>What direct transfers of the file have to be multiples of (STATX_DIOALIGN).</summary>
    /// <param name="memory">Alignment in bytes of the addresses of runs.</param>
    /// <param name="offset">Alignment in bytes of the offset in the file and of the length of each run.</param>
    /// <returns>False when the kernel does not say, or the file has no direct transfers.</returns>
    public unsafe bool TryGetDirectAlignment(out int memory, out int offset)
    {
        StatxBuffer buffer;
        byte empty = 0;
        // SAFETY: as in TryGetStatus.
        var known = Libc.statx_fd(this, &empty, Libc.AT_EMPTY_PATH, Libc.STATX_DIOALIGN, &buffer) == 0
            && (buffer.Mask & Libc.STATX_DIOALIGN) != 0 && buffer.DirectOffsetAlignment != 0;
        memory = known ? Math.Max((int)buffer.DirectMemoryAlignment, 1) : 0;
        offset = known ? (int)buffer.DirectOffsetAlignment : 0;
        return known;
    }

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        if (_peers is null)
            return Libc.close((int)handle) == 0;
        _peers.Close((int)handle, _closesAtOnce);
        return true;
    }
}
