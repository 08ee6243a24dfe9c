using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>
/// A disk in a regular file, moved straight between the file and guest memory (preadv, pwritev). The file is locked as long as the disk
/// is open: one writer, or any number of readers.
/// </summary>
public sealed class FileBackend : IBlockBackend
{
    // IOV_MAX: the most runs that one call takes.
    private const int MaxRuns = 1024;
    private readonly FileDescriptor _file;

    private FileBackend(string path, FileDescriptor file, long capacity, int blockSize, bool readOnly)
    {
        Description = path;
        _file = file;
        Capacity = capacity;
        BlockSize = blockSize;
        IsReadOnly = readOnly;
    }

    /// <inheritdoc/>
    public string Description { get; }

    /// <inheritdoc/>
    public long Capacity { get; }

    /// <inheritdoc/>
    public int BlockSize { get; }

    /// <inheritdoc/>
    public bool IsReadOnly { get; }

    /// <summary>Opens a file as a disk.</summary>
    /// <param name="path">Path of an existing regular file; its size is the disk's.</param>
    /// <param name="readOnly">Whether it is opened for reading only.</param>
    /// <param name="blockSize">Unit of requests in bytes, a power of two from 512 to 65536.</param>
    /// <param name="raw">
    /// Whether the bytes are the disk's whatever they look like. Otherwise a file of an image format is refused; a guest that writes such bytes
    /// to its own disk makes it look so, at the next opening and not while it is open.
    /// </param>
    /// <returns>The disk.</returns>
    /// <exception cref="VirtbusException">
    /// ENOENT, EACCES, EROFS and what else opening answers; EISDIR; EINVAL for another kind of file, an image format, or a size that is no
    /// multiple of the block size; EBUSY when another disk or process holds the file's lock.
    /// </exception>
    public static FileBackend Open(string path, bool readOnly = false, int blockSize = 512, bool raw = false)
    {
        // A write beyond the limit of a file's size is an error of one request, and not the end of the process.
        HostSignals.IgnoreFileSizeLimit();
        var file = OpenChecked(path, readOnly, blockSize, raw, out var size);
        if (file.TryLock(exclusive: !readOnly))
            return new FileBackend(path, file, size, blockSize, readOnly);
        file.Dispose();
        throw new VirtbusException(Errno.EBUSY, $"Disk file '{path}' is in use by another disk or process. Close that one first, or open both read-only.");
    }

    /// <summary>What keeps a file from being a disk, without opening it for good or locking it; null when nothing does.</summary>
    /// <param name="path">Path of the file.</param>
    /// <param name="readOnly">As for <see cref="Open"/>.</param>
    /// <param name="raw">As for <see cref="Open"/>.</param>
    public static VirtbusException? FindFault(string path, bool readOnly = false, bool raw = false)
    {
        try
        {
            OpenChecked(path, readOnly, BlockGeometry.SectorSize, raw, out _).Dispose();
            return null;
        }
        catch (VirtbusException e)
        {
            return e;
        }
    }

    /// <inheritdoc/>
    public IBlockChannel OpenChannel(int depth) => new Channel(_file);

    /// <summary>Closes the file and gives its lock back.</summary>
    public void Dispose() => _file.Dispose();

    private static FileDescriptor OpenChecked(string path, bool readOnly, int blockSize, bool raw, out long size)
    {
        var target = System.IO.Path.GetFullPath(path);
        BlockGeometry.CheckBlockSize(path, blockSize);
        // Looked at before it is opened: opening a FIFO would wait for its other end.
        if (!FileStatus.TryGetTarget(target, out var status, out var error))
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
            size = checked((long)status.Size);
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
            throw new VirtbusException(Errno.EINVAL, $"Disk file '{path}' is empty. Give it the disk's size: {ShellQuote.Join(["truncate", "-s", "1G", path])}");
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
        Errno.ENOENT or Errno.ENOTDIR => new VirtbusException(error, $"Disk file '{path}' does not exist. Make it, for example with: {ShellQuote.Join(["truncate", "-s", "1G", path])}"),
        Errno.EACCES or Errno.EPERM or Errno.EROFS when !readOnly => new VirtbusException(error,
            $"Disk file '{path}' may not be opened to read and write ({error}). Change the permissions of the file and its folders, or make the disk read-only."),
        Errno.EACCES or Errno.EPERM => new VirtbusException(error, $"Disk file '{path}' may not be read ({error}). Change the permissions of the file and its folders."),
        _ => new VirtbusException(error, $"Disk file '{path}' cannot be opened: {error}. Check the path."),
    };

    private sealed class Channel(FileDescriptor file) : SynchronousChannel
    {
        // What is left of a transfer that the kernel cut short.
        private IoVector[] _rest = [];

        public override bool Submit(BlockRequest request)
        {
            request.Result = request.Operation == BlockOperation.Flush ? file.SyncData() : Move(request);
            return true;
        }

        private Errno Move(BlockRequest request)
        {
            var offset = request.Offset;
            var runs = request.Runs;
            while (!runs.IsEmpty)
            {
                var batch = runs.Length > MaxRuns ? runs[..MaxRuns] : runs;
                var moved = request.Operation == BlockOperation.Read
                    ? file.ReadVectors(batch, offset, out var error)
                    : file.WriteVectors(batch, offset, out error);
                if (moved < 0)
                    return error;
                // A read of nothing: the file was cut shorter than the disk.
                if (moved == 0)
                    return Errno.EIO;
                offset += moved;
                runs = Rest(runs, moved);
            }

            return Errno.None;
        }

        private ReadOnlySpan<IoVector> Rest(ReadOnlySpan<IoVector> runs, long moved)
        {
            var done = 0;
            while (done < runs.Length && moved >= (long)runs[done].Length)
                moved -= (long)runs[done++].Length;
            runs = runs[done..];
            if (moved == 0)
                return runs;
            if (_rest.Length < runs.Length)
                _rest = new IoVector[Math.Max(runs.Length, 128)];
            // The span may be the array's own tail already; CopyTo moves it rightly.
            runs.CopyTo(_rest);
            _rest[0] = new IoVector(_rest[0].Address + (nint)moved, _rest[0].Length - (nuint)moved);
            return _rest.AsSpan(0, runs.Length);
        }
    }
}
