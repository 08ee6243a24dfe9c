namespace Virtbus.Block;

/// <summary>
/// Where the blocks of a disk are kept. A queue opens a channel of its own and sends its requests there, so that queues share nothing on
/// their way. The back end outlives its channels; who made it disposes it. Safe from any thread; a channel is one thread's.
/// </summary>
/// <remarks>
/// <para>
/// <b>Durability.</b> This is the whole promise; models and transports translate it and add nothing.
/// A write that is done (<see cref="BlockRequest.Result"/> is None) is what every later read of any channel gives, as long as the process and
/// its host live. It outlives the end of this process when the back end's <see cref="BlockInfo"/> belongs to a file, and the loss of
/// power only when one of these holds: a <see cref="BlockOperation.Flush"/> that was <em>submitted after the write was done</em> is done
/// with no error, by whichever channel; or the write itself said <see cref="BlockRequest.IsDurable"/> (force unit access); or the back end has
/// no write cache (<see cref="BlockInfo.HasWriteCache"/>). Write-through is nothing of its own: a model serves it by IsDurable or by a flush
/// after each write. The same holds for a discard and for zeros.
/// </para>
/// <para>
/// Requests in flight together have no order among each other. A write that ended with an error may have changed any part of its range, and
/// after a lost host one that was not durable may be there in any of its blocks; a block of <see cref="BlockInfo.BlockSize"/> is never half old
/// and half new where the host does not tear it. A flush that failed promises nothing of the writes before it, and no later one does
/// either for those: where the host has lost them, as the page cache has, every later flush fails. Back ends in memory promise nothing beyond the process, and answer a flush at once.
/// </para>
/// </remarks>
public interface IBlockBackend : IDisposable
{
    /// <summary>
    /// Raised after <see cref="Info"/> became another one: the disk has another size. On any thread; the listener must not block.
    /// Who is in the middle of a request that went by the old size gets EIO for what is not there any more.
    /// </summary>
    event EventHandler? InfoChanged;

    /// <summary>What it is, for logs: a file's path, or a word.</summary>
    string Description { get; }

    /// <summary>Size, units and abilities at this moment.</summary>
    BlockInfo Info { get; }

    /// <summary>
    /// Whether a channel may wait for the host in a call: a queue then gets a thread of its own. One of a back end that never does shares a poll
    /// thread with others.
    /// </summary>
    bool MayBlock => true;

    /// <summary>Opens a way in for one queue.</summary>
    /// <param name="depth">The most requests that the queue will have in flight.</param>
    /// <param name="ownsThread">
    /// Whether the queue's thread is its own, so that a call may wait for the host a little (a buffered write that has to wait for memory).
    /// Else nothing that the host does may hold the thread, since other queues wait for it too.
    /// </param>
    /// <returns>The channel, owned by the caller.</returns>
    IBlockChannel OpenChannel(int depth, bool ownsThread = true);

    /// <summary>Allocates memory whose content requests move without a copy, for a back end that has hardware behind it.</summary>
    /// <param name="bytes">How many bytes at least, 1 to 2^30.</param>
    /// <returns>The memory, owned by the caller; null where any memory does as well, or there is none left. Any thread.</returns>
    BlockMemory? AllocateMemory(ulong bytes) => null;

    /// <summary>
    /// Says how the blocks from a place on are kept at this moment. May wait for the host where <see cref="MayBlock"/> says so. Any thread; throws nothing.
    /// </summary>
    /// <param name="offset">Byte offset of the first block.</param>
    /// <param name="length">How many bytes are asked about, above 0; with the offset as <see cref="BlockInfo.Holds"/> wants it.</param>
    /// <returns>The blocks in a row that are kept as the first one, at most those asked about. A back end that does not know says that they may hold anything.</returns>
    BlockExtent FindExtent(long offset, long length) => new(length, IsHole: false);
}
