using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>A disk in memory, zero filled; it is gone with the process.</summary>
public sealed class MemoryBackend : IBlockBackend
{
    private readonly HostMemory _store;
    private readonly FileDescriptor _file;

    /// <summary>Makes one. Pages are taken from the host when they are first written.</summary>
    /// <param name="capacity">Size in bytes, a multiple of <paramref name="blockSize"/>.</param>
    /// <param name="blockSize">Unit of requests in bytes, a power of two from 512 to 65536.</param>
    /// <param name="readOnly">Whether writes are refused.</param>
    /// <exception cref="VirtbusException">EINVAL for a size that does not fit; ENOMEM.</exception>
    public MemoryBackend(long capacity, int blockSize = 512, bool readOnly = false)
    {
        BlockGeometry.Check("memory", capacity, blockSize);
        Info = new BlockInfo
        {
            Capacity = capacity,
            BlockSize = blockSize,
            IsReadOnly = readOnly,
            MaxDiscard = capacity,
            DiscardAlignment = Math.Max(Environment.SystemPageSize, blockSize),
            MaxWriteZeroes = capacity,
            HasFastZeroes = true,
        };
        _store = HostMemory.Allocate("virtbus-disk", (ulong)capacity, out _file);
    }

    /// <summary>Never raised: its size stays.</summary>
    public event EventHandler? InfoChanged
    {
        add { }
        remove { }
    }

    /// <inheritdoc/>
    public string Description => "memory";

    /// <inheritdoc/>
    public BlockInfo Info { get; }

    /// <inheritdoc/>
    public bool MayBlock => false;

    /// <inheritdoc/>
    public IBlockChannel OpenChannel(int depth, bool ownsThread = true) => new Channel(_store.Acquire(), _file);

    /// <inheritdoc/>
    public BlockExtent FindExtent(long offset, long length) => FileBackend.FindExtent(_file, offset, length, Info.BlockSize);

    /// <summary>Lets go of the memory, once the last channel has.</summary>
    public void Dispose()
    {
        _store.Dispose();
        _file.Dispose();
    }

    private sealed class Channel(HostMemory store, FileDescriptor file) : SynchronousChannel
    {
        public override void Dispose() => store.Dispose();

        protected override Errno Do(BlockRequest request)
        {
            switch (request.Operation)
            {
                case BlockOperation.Read or BlockOperation.Write:
                    Move(request);
                    return Errno.None;
                case BlockOperation.Discard or BlockOperation.WriteZeroes:
                    // Gives the pages back, and the mapping reads zeros there.
                    return request.Length == 0 ? Errno.None : file.Allocate(FileAllocation.PunchHole, request.Offset, request.Length);
                case BlockOperation.GetId:
                    request.AnswerIdentity("");
                    return Errno.None;
                default:
                    return Errno.None;
            }
        }

        private void Move(BlockRequest request)
        {
            var at = (ulong)request.Offset;
            foreach (var run in request.Runs)
            {
                if (request.Operation == BlockOperation.Read)
                    store.Read(at, run.AsSpan());
                else
                    store.Write(at, run.AsSpan());
                at += run.Length;
            }
        }
    }
}
