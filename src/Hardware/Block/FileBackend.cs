using Virtbus.Platform;

namespace Virtbus.Hardware.Block;

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
    /// <returns>The disk.</returns>
    /// <exception cref="VirtbusException">
    /// ENOENT, EACCES, EROFS and what else opening answers; EISDIR; EINVAL for another kind of file or a size that is no multiple of the
    /// block size; EBUSY when another disk or process holds the file's lock.
    /// </exception>
    public static FileBackend Open(string path, bool readOnly = false, int blockSize = 512)
    {
        // A write beyond the limit of a file's size is an error of one request, and not the end of the process.
        HostSignals.IgnoreFileSizeLimit();
        // Looked at before it is opened: opening a FIFO would wait for its other end.
        var target = System.IO.Path.GetFullPath(path);
        if (Directory.Exists(target))
            throw new VirtbusException(Errno.EISDIR, $"Disk file '{path}' is a directory. Name a file.");
        var file = FileDescriptor.TryOpen(target, !readOnly, out var error) ?? throw OpenError(path, readOnly, error);
        try
        {
            if (!file.TryGetStatus(out var status) || status.Kind != FileKind.Regular)
                throw new VirtbusException(Errno.EINVAL, $"Disk file '{path}' is no regular file. Name one.");
            BlockGeometry.Check(path, checked((long)status.Size), blockSize);
            if (!file.TryLock(exclusive: !readOnly))
            {
                throw new VirtbusException(Errno.EBUSY,
                    $"Disk file '{path}' is in use by another disk or process. Close that one first, or open both read-only.");
            }

            return new FileBackend(path, file, (long)status.Size, blockSize, readOnly);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public IBlockChannel OpenChannel(int depth) => new Channel(_file);

    /// <summary>Closes the file and gives its lock back.</summary>
    public void Dispose() => _file.Dispose();

    private static VirtbusException OpenError(string path, bool readOnly, Errno error) => error switch
    {
        Errno.ENOENT => new VirtbusException(error, $"Disk file '{path}' does not exist. Make it first, for example with 'truncate -s 1G'."),
        Errno.EACCES or Errno.EPERM or Errno.EROFS when !readOnly => new VirtbusException(error,
            $"Disk file '{path}' may not be written ({error}). Change its permissions or open it read-only."),
        Errno.EACCES => new VirtbusException(error, $"Disk file '{path}' may not be read. Change its permissions."),
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
