using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>A disk in memory, zero filled; it is gone with the process.</summary>
public sealed class MemoryBackend : IBlockBackend
{
    private readonly HostMemory _store;

    /// <summary>Makes one. Pages are taken from the host when they are first written.</summary>
    /// <param name="capacity">Size in bytes, a multiple of <paramref name="blockSize"/>.</param>
    /// <param name="blockSize">Unit of requests in bytes, a power of two from 512 to 65536.</param>
    /// <param name="readOnly">Whether writes are refused.</param>
    /// <exception cref="VirtbusException">EINVAL for a size that does not fit; ENOMEM.</exception>
    public MemoryBackend(long capacity, int blockSize = 512, bool readOnly = false)
    {
        BlockGeometry.Check("memory", capacity, blockSize);
        Capacity = capacity;
        IsReadOnly = readOnly;
        BlockSize = blockSize;
        _store = HostMemory.Allocate("virtbus-disk", (ulong)capacity, out var file);
        file.Dispose();
    }

    /// <inheritdoc/>
    public string Description => "memory";

    /// <inheritdoc/>
    public long Capacity { get; }

    /// <inheritdoc/>
    public int BlockSize { get; }

    /// <inheritdoc/>
    public bool IsReadOnly { get; }

    /// <inheritdoc/>
    public IBlockChannel OpenChannel(int depth) => new Channel(_store.Acquire());

    /// <summary>Lets go of the memory, once the last channel has.</summary>
    public void Dispose() => _store.Dispose();

    private sealed class Channel(HostMemory store) : SynchronousChannel
    {
        public override bool Submit(BlockRequest request)
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

            request.Result = Errno.None;
            return true;
        }

        public override void Dispose() => store.Dispose();
    }
}
