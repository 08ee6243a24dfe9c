namespace Virtbus.Block;

/// <summary>
/// Where the blocks of a disk are kept. A queue opens a channel of its own and sends its requests there, so that queues share nothing on
/// their way. The backend outlives its channels; who made it disposes it.
/// </summary>
public interface IBlockBackend : IDisposable
{
    /// <summary>What it is, for logs: a file's path, or a word.</summary>
    string Description { get; }

    /// <summary>Size in bytes, a multiple of <see cref="BlockSize"/>.</summary>
    long Capacity { get; }

    /// <summary>Size in bytes of the unit that requests come in: a power of two from 512.</summary>
    int BlockSize { get; }

    /// <summary>Whether it takes no writes.</summary>
    bool IsReadOnly { get; }

    /// <summary>Opens a way in for one queue's thread.</summary>
    /// <param name="depth">The most requests that the queue will have in flight.</param>
    /// <returns>The channel, owned by the caller.</returns>
    IBlockChannel OpenChannel(int depth);
}
