using Virtbus.Platform;
using Virtbus.Platform.IoUring;

namespace Virtbus.Block;

/// <summary>
/// A disk in a regular file, moved straight between the file and guest memory. The file is locked as long as the disk is open: one writer,
/// or any number of readers, this program's disks and QEMU's.
/// </summary>
/// <remarks>
/// What the page cache has is read on the queue's thread. The rest goes by io_uring, many requests by one call, or by a few threads of the disk
/// where the host has no io_uring (<see cref="WhyNoUring"/>). A file on tmpfs is read and written in place, and a buffered write is done in place
/// on a queue that has a thread of its own. <see cref="IBlockChannel.Ways"/> counts which way was taken.
/// </remarks>
public sealed class FileBackend : IBlockBackend
{
    // Where the kernel does not say what direct transfers need.
    private const int UnknownAlignment = 4096;
    private static readonly Lazy<Errno> s_uring = new(TryUring);

    private readonly Lock _lock = new();
    private readonly FileDescriptor _file;
    private readonly FileDescriptor? _direct;
    private BlockInfo _info;
    private int _lost;

    private FileBackend(string path, FileDescriptor file, FileDescriptor? direct, BlockInfo info)
    {
        Description = path;
        _file = file;
        _direct = direct;
        _info = info;
        IsInMemory = file.IsOnMemoryFileSystem();
        Workers = new FileWorkers(System.IO.Path.GetFileName(path));
        (DirectMemoryAlignment, DirectLengthAlignment) =
            direct is not null && direct.TryGetDirectAlignment(out var memory, out var unit) ? (memory, unit) : (UnknownAlignment, UnknownAlignment);
    }

    /// <inheritdoc/>
    public event EventHandler? InfoChanged;

    /// <summary>
    /// Raised once, when <see cref="FailedFlush"/> is no longer None. On the thread that found it; the listener must not block.
    /// </summary>
    public event EventHandler? FlushFailed;

    /// <inheritdoc/>
    public string Description { get; }

    /// <inheritdoc/>
    public BlockInfo Info => Volatile.Read(ref _info);

    /// <summary>Whether transfers pass the page cache by.</summary>
    public bool IsDirect => _direct is not null;

    /// <summary>Why this host's disks do without io_uring, as a sentence; null when they have it, or when the file needs none.</summary>
    public string? WhyNoUring => (!IsInMemory || IsDirect) && s_uring.Value is var error and not Errno.None ? IoRing.Explain(error) : null;

    /// <summary>
    /// How a flush of the page cache has failed; None while none has. The kernel then takes what it could not write for written, and tells of it
    /// once: no later flush can promise anything, so each of any channel ends with this error until the disk is opened again. Direct
    /// transfers leave nothing in the page cache, and their flush may be tried again.
    /// </summary>
    public Errno FailedFlush => (Errno)Volatile.Read(ref _lost);

    /// <summary>Whether no transfer waits for a device, since the file system is memory.</summary>
    internal bool IsInMemory { get; }

    /// <summary>What addresses of runs have to be multiples of for a direct transfer; a test may claim another.</summary>
    internal int DirectMemoryAlignment { get; set; }

    /// <summary>What lengths of runs have to be multiples of for a direct transfer: often more than their addresses.</summary>
    internal int DirectLengthAlignment { get; }

    internal FileWorkers Workers { get; }

    /// <summary>For tests: which way the transfers of the next channels go.</summary>
    internal FileWay Way { get; set; }

    /// <summary>Opens a file as a disk.</summary>
    /// <param name="path">Path of an existing regular file; its size is the disk's.</param>
    /// <param name="readOnly">Whether it is opened for reading only.</param>
    /// <param name="blockSize">Unit of requests in bytes, a power of two from 512 to 65536.</param>
    /// <param name="raw">
    /// Whether the bytes are the disk's whatever they look like. Otherwise a file of an image format is refused; a guest that writes such bytes
    /// to its own disk makes it look so, at the next opening and not while it is open.
    /// </param>
    /// <param name="direct">
    /// Whether transfers pass the page cache by (O_DIRECT). Buffers that are not aligned as the file system wants it go through one that is.
    /// </param>
    /// <returns>The disk.</returns>
    /// <exception cref="VirtbusException">
    /// ENOENT, EACCES, EROFS and what else opening answers; EISDIR; EINVAL for another kind of file, an image format, a size that is no
    /// multiple of the block size, or direct transfers that the file system has not or not of such small blocks; EBUSY when another disk or
    /// process holds the file's lock.
    /// </exception>
    public static FileBackend Open(string path, bool readOnly = false, int blockSize = 512, bool raw = false, bool direct = false)
    {
        // A write beyond the limit of a file's size is an error of one request, and not the end of the process.
        HostSignals.IgnoreFileSizeLimit();
        var file = OpenChecked(path, readOnly, blockSize, raw, out var status);
        try
        {
            if (!file.TryLock(exclusive: !readOnly) || !ImageLocks.TryTake(file, writer: !readOnly))
            {
                throw new VirtbusException(
                    Errno.EBUSY, $"Disk file '{path}' is in use by another disk or process. Close that one first, or open both read-only.");
            }

            return new FileBackend(path, file, direct ? OpenDirect(path, readOnly, blockSize) : null, Describe(status, blockSize, readOnly));
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>What keeps a file from being a disk, without opening it for good or locking it; null when nothing does.</summary>
    /// <param name="path">Path of the file.</param>
    /// <param name="readOnly">As for <see cref="Open"/>.</param>
    /// <param name="raw">As for <see cref="Open"/>.</param>
    /// <param name="direct">As for <see cref="Open"/>.</param>
    public static VirtbusException? FindFault(string path, bool readOnly = false, bool raw = false, bool direct = false)
    {
        try
        {
            OpenChecked(path, readOnly, BlockGeometry.SectorSize, raw, out _).Dispose();
            if (direct)
                OpenDirect(path, readOnly, BlockGeometry.SectorSize).Dispose();
            return null;
        }
        catch (VirtbusException e)
        {
            return e;
        }
    }

    /// <inheritdoc/>
    public IBlockChannel OpenChannel(int depth, bool ownsThread = true) =>
        new FileChannel(this, _file, OpenOwn(), _direct, depth, ownsThread, Way);

    /// <inheritdoc/>
    public BlockExtent FindExtent(long offset, long length) => FindExtent(_file, offset, length, Info.BlockSize);

    /// <summary>Gives the file and the disk another size. What a longer one has more is zeros; what a shorter one has less is lost.</summary>
    /// <param name="capacity">Size in bytes, a multiple of the block size.</param>
    /// <exception cref="VirtbusException">EINVAL for a size that does not fit; EROFS for a read-only disk; what the file system answers.</exception>
    public void Resize(long capacity)
    {
        lock (_lock)
        {
            if (Info.IsReadOnly)
            {
                throw new VirtbusException(
                    Errno.EROFS, $"Disk file '{Description}' is open to be read only. Open it to read and write, to give it another size.");
            }

            BlockGeometry.Check(Description, capacity, Info.BlockSize);
            if (_file.SetLength(capacity) is var error and not Errno.None)
            {
                throw new VirtbusException(
                    error, $"Disk file '{Description}' cannot have {capacity} bytes: {error}. Make room on its file system, or choose a smaller size.");
            }

            Volatile.Write(ref _info, WithCapacity(Info, capacity));
        }

        InfoChanged?.Invoke(this, EventArgs.Empty);
    }

    /// <summary>Looks at the file's size again, after another program has made it longer or shorter, and takes it for the disk's.</summary>
    /// <returns>Whether it is another one.</returns>
    /// <exception cref="VirtbusException">EINVAL for a size that is no multiple of the block size, or 0; the disk then has the size it had.</exception>
    public bool Refresh()
    {
        lock (_lock)
        {
            if (!_file.TryGetStatus(out var status) || (long)status.Size == Info.Capacity)
                return false;
            CheckSize(Description, (long)status.Size, Info.BlockSize);
            Volatile.Write(ref _info, WithCapacity(Info, (long)status.Size));
        }

        InfoChanged?.Invoke(this, EventArgs.Empty);
        return true;
    }

    /// <summary>Closes the file and gives its lock back. Its channels are gone.</summary>
    public void Dispose()
    {
        Workers.Dispose();
        _direct?.Dispose();
        if (!_file.IsClosed)
        {
            ImageLocks.Release(_file);
            _file.Unlock();
        }

        _file.Dispose();
    }

    /// <summary>What the file system has of blocks, of which one may be partly a hole: it is data then.</summary>
    internal static BlockExtent FindExtent(FileDescriptor file, long offset, long length, int blockSize)
    {
        var isHole = !file.FindData(offset, out var end);
        end = isHole ? Math.Min(end, offset + length) & -blockSize : Math.Min((Math.Min(end, offset + length) + blockSize - 1) & -blockSize, offset + length);
        return end > offset ? new BlockExtent(end - offset, isHole) : new BlockExtent(blockSize, IsHole: false);
    }

    /// <summary>A request has ended; what it is answered with. From any channel's thread.</summary>
    internal Errno End(BlockRequest request, Errno result)
    {
        // The kernel tells a durable write too, in place of a flush, of what it could not write; a full file system is told before that.
        var tells = request.Operation == BlockOperation.Flush || (request.IsDurable && request.Operation == BlockOperation.Write && result == Errno.EIO);
        if (!tells || IsDirect || result == Errno.ECANCELED)
            return result;
        if (result != Errno.None && Interlocked.CompareExchange(ref _lost, (int)result, (int)Errno.None) == (int)Errno.None)
            FlushFailed?.Invoke(this, EventArgs.Empty);
        // One that another channel's flush was told of.
        return result != Errno.None ? result : FailedFlush;
    }

    // The kernel tells of what it could not write each open file of its own, so that no queue's flush takes that away from another's. Null where
    // nothing is written back later, or the process may not open the file again.
    private FileDescriptor? OpenOwn() => Info.IsReadOnly || IsInMemory ? null : _file.Reopen();

    private static Errno TryUring()
    {
        IoRing.TryCreate(1, out var error)?.Dispose();
        return error;
    }

    private static BlockInfo Describe(in FileStatus status, int blockSize, bool readOnly)
    {
        var unit = Math.Max((int)status.BlockSize, blockSize);
        var info = new BlockInfo
        {
            Capacity = 0,
            BlockSize = blockSize,
            PhysicalBlockExponent = int.IsPow2(unit) ? int.Log2(unit / blockSize) : 0,
            DiscardAlignment = unit,
            IsReadOnly = readOnly,
            HasWriteCache = true,
            HasFastZeroes = true,
        };
        return WithCapacity(info, (long)status.Size);
    }

    private static BlockInfo WithCapacity(BlockInfo info, long capacity) =>
        info with { Capacity = capacity, MaxDiscard = info.IsReadOnly ? 0 : capacity, MaxWriteZeroes = info.IsReadOnly ? 0 : capacity };

    private static FileDescriptor OpenDirect(string path, bool readOnly, int blockSize)
    {
        var file = FileDescriptor.TryOpen(System.IO.Path.GetFullPath(path), !readOnly, out var error, direct: true);
        if (file is null)
        {
            throw new VirtbusException(error, error == Errno.EINVAL
                ? $"Disk file '{path}' is on a file system that has no direct transfers. Leave them out, or put the file on another one."
                : $"Disk file '{path}' cannot be opened for direct transfers: {error}. Check the path.");
        }

        if (!file.TryGetDirectAlignment(out _, out var unit))
        {
            using var buffer = new AlignedBuffer(UnknownAlignment, UnknownAlignment);
            var isTooSmall = file.ReadVectors([buffer.Take(Math.Min(blockSize, UnknownAlignment))], 0, out error) < 0 && error == Errno.EINVAL;
            unit = isTooSmall ? UnknownAlignment : blockSize;
        }

        if (unit <= blockSize)
            return file;
        file.Dispose();
        throw new VirtbusException(Errno.EINVAL,
            $"Disk file '{path}' has direct transfers in units of {unit} bytes, and the disk has blocks of {blockSize}. "
            + $"Give it blocks of {unit}, or leave direct transfers out.");
    }

    private static FileDescriptor OpenChecked(string path, bool readOnly, int blockSize, bool raw, out FileStatus status)
    {
        var target = System.IO.Path.GetFullPath(path);
        BlockGeometry.CheckBlockSize(path, blockSize);
        // Looked at before it is opened: opening a FIFO would wait for its other end.
        if (!FileStatus.TryGetTarget(target, out status, out var error))
            throw OpenError(path, readOnly, error);
        if (status.Kind == FileKind.Directory)
            throw new VirtbusException(Errno.EISDIR, $"Disk file '{path}' is a folder. Name a file.");
        if (status.Kind != FileKind.Regular)
            throw NotRegular(path);
        var file = FileDescriptor.TryOpen(target, !readOnly, out error) ?? throw OpenError(path, readOnly, error);
        try
        {
            if (!file.TryGetStatus(out status) || status.Kind != FileKind.Regular)
                throw NotRegular(path);
            var size = checked((long)status.Size);
            if (!raw)
                CheckFormat(path, file, size);
            CheckSize(path, size, blockSize);
            return file;
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    private static void CheckFormat(string path, FileDescriptor file, long size)
    {
        if (ImageFormat.Find(file, size, out var driver) is not { } format)
            return;
        var converted = System.IO.Path.ChangeExtension(path, ".raw");
        if (converted == path)
            converted = path + ".raw";
        string[] command = ["qemu-img", "convert", .. driver is null ? Array.Empty<string>() : ["-f", driver], "-O", "raw", path, converted];
        throw new VirtbusException(Errno.EINVAL,
            $"Disk file '{path}' is an image in the format {format}, and a disk is served from raw sectors. Convert it: {ShellQuote.Join(command)}. "
            + "If those bytes are what a guest wrote to its own raw disk, say 'format: raw'.");
    }

    private static void CheckSize(string path, long size, int blockSize)
    {
        if (size == 0)
        {
            throw new VirtbusException(
                Errno.EINVAL, $"Disk file '{path}' is empty. Give it the disk's size: {ShellQuote.Join(["truncate", "-s", "1G", path])}");
        }

        var rest = size % blockSize;
        if (rest == 0)
            return;
        throw new VirtbusException(Errno.EINVAL,
            $"Disk file '{path}' has {size} bytes, which is no multiple of {blockSize}. Add zeros at its end, which keeps what is in it: "
            + ShellQuote.Join(["truncate", "-s", $"{size - rest + blockSize}", path]));
    }

    private static VirtbusException NotRegular(string path) => new(Errno.EINVAL, $"Disk file '{path}' is no regular file. Name one.");

    private static VirtbusException OpenError(string path, bool readOnly, Errno error) => error switch
    {
        Errno.ENOENT or Errno.ENOTDIR => new VirtbusException(error,
            $"Disk file '{path}' does not exist. Make it, for example with: {ShellQuote.Join(["truncate", "-s", "1G", path])}"),
        Errno.EACCES or Errno.EPERM or Errno.EROFS when !readOnly => new VirtbusException(error,
            $"Disk file '{path}' may not be opened to read and write ({error}). "
            + "Change the permissions of the file and its folders, or make the disk read-only."),
        Errno.EACCES or Errno.EPERM => new VirtbusException(error,
            $"Disk file '{path}' may not be read ({error}). Change the permissions of the file and its folders."),
        _ => new VirtbusException(error, $"Disk file '{path}' cannot be opened: {error}. Check the path."),
    };
}
