using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>A disk that keeps nothing: writes vanish and reads leave the buffer as it is. It measures the path to a backend.</summary>
public sealed class NullBackend : IBlockBackend
{
    /// <summary>Makes one.</summary>
    /// <param name="capacity">Size in bytes, a multiple of <paramref name="blockSize"/>.</param>
    /// <param name="blockSize">Unit of requests in bytes, a power of two from 512 to 65536.</param>
    /// <param name="readOnly">Whether writes are refused.</param>
    /// <exception cref="VirtbusException">EINVAL for a size that does not fit.</exception>
    public NullBackend(long capacity, int blockSize = 512, bool readOnly = false)
    {
        BlockGeometry.Check("null", capacity, blockSize);
        Capacity = capacity;
        IsReadOnly = readOnly;
        BlockSize = blockSize;
    }

    /// <inheritdoc/>
    public string Description => "null";

    /// <inheritdoc/>
    public long Capacity { get; }

    /// <inheritdoc/>
    public int BlockSize { get; }

    /// <inheritdoc/>
    public bool IsReadOnly { get; }

    /// <inheritdoc/>
    public IBlockChannel OpenChannel(int depth) => new Channel();

    /// <summary>Does nothing: there is nothing to let go of.</summary>
    public void Dispose()
    {
    }

    private sealed class Channel : SynchronousChannel
    {
        public override bool Submit(BlockRequest request)
        {
            request.Result = Errno.None;
            return true;
        }
    }
}
