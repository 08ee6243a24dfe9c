namespace Virtbus.Block;

/// <summary>
/// The flushes of a channel, one at a time: the kernel tells of what it could not write once for an open file, so of two that are under way
/// together one would be told that all is well. Those that come while one is under way are done by the next one, all of them. The channel's thread.
/// </summary>
internal sealed class FlushLine
{
    private readonly Queue<FileTransfer> _waiting = new();
    private readonly Queue<FileTransfer> _along = new();
    private readonly Queue<FileTransfer> _ended = new();
    private FileTransfer? _underWay;

    /// <summary>Whether there are flushes that have ended with another one.</summary>
    internal bool HasEnded => _ended.Count > 0;

    /// <summary>Whether a flush is to be started now; else it is done with those that wait.</summary>
    internal bool TryBegin(FileTransfer flush)
    {
        if (_underWay is null)
        {
            _underWay = flush;
            return true;
        }

        _waiting.Enqueue(flush);
        return false;
    }

    /// <summary>Takes a flush that has ended with another one.</summary>
    internal FileTransfer? TakeEnded() => _ended.TryDequeue(out var flush) ? flush : null;

    internal bool IsUnderWay(FileTransfer transfer) => _underWay == transfer;

    /// <summary>The one under way has its result, which is that of those it was done for.</summary>
    /// <param name="isTaken">Whether the channel has it; else it is taken like those.</param>
    /// <returns>The one to start now; null for none.</returns>
    internal FileTransfer? End(bool isTaken)
    {
        var done = _underWay!;
        if (!isTaken)
            _ended.Enqueue(done);
        while (_along.TryDequeue(out var flush))
        {
            flush.Request.Result = done.Request.Result;
            _ended.Enqueue(flush);
        }

        _underWay = _waiting.TryDequeue(out var next) ? next : null;
        while (_waiting.TryDequeue(out var flush))
            _along.Enqueue(flush);
        return _underWay;
    }
}
