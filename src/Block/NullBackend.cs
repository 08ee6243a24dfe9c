using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>A disk that keeps nothing: writes vanish and reads leave the buffer as it is. It measures the path to a back end.</summary>
public sealed class NullBackend : IBlockBackend
{
    private BlockInfo _info;

    /// <summary>Makes one.</summary>
    /// <param name="capacity">Size in bytes, a multiple of <paramref name="blockSize"/>.</param>
    /// <param name="blockSize">Unit of requests in bytes, a power of two from 512 to 65536.</param>
    /// <param name="readOnly">Whether writes are refused.</param>
    /// <exception cref="VirtbusException">EINVAL for a size that does not fit.</exception>
    public NullBackend(long capacity, int blockSize = 512, bool readOnly = false)
    {
        BlockGeometry.Check("null", capacity, blockSize);
        _info = new BlockInfo { Capacity = capacity, BlockSize = blockSize, IsReadOnly = readOnly, MaxDiscard = long.MaxValue, DiscardAlignment = blockSize };
    }

    /// <inheritdoc/>
    public event EventHandler? InfoChanged;

    /// <inheritdoc/>
    public string Description => "null";

    /// <inheritdoc/>
    public BlockInfo Info => Volatile.Read(ref _info);

    /// <summary>Gives the disk another size.</summary>
    /// <param name="capacity">Size in bytes, a multiple of the block size.</param>
    /// <exception cref="VirtbusException">EINVAL for a size that does not fit.</exception>
    public void Resize(long capacity)
    {
        BlockGeometry.Check("null", capacity, Info.BlockSize);
        Volatile.Write(ref _info, Info with { Capacity = capacity });
        InfoChanged?.Invoke(this, EventArgs.Empty);
    }

    /// <inheritdoc/>
    public bool MayBlock => false;

    /// <inheritdoc/>
    public IBlockChannel OpenChannel(int depth, bool ownsThread = true) => new Channel();

    /// <summary>Does nothing: there is nothing to let go of.</summary>
    public void Dispose()
    {
    }

    private sealed class Channel : SynchronousChannel
    {
        protected override Errno Do(BlockRequest request)
        {
            if (request.Operation == BlockOperation.WriteZeroes)
                return Errno.EOPNOTSUPP;
            if (request.Operation == BlockOperation.GetId)
                request.AnswerIdentity("");
            return Errno.None;
        }
    }
}
