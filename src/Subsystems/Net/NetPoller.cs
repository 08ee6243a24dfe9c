using Virtbus.Platform;

namespace Virtbus.Subsystems.Net;

/// <summary>
/// Looks for frames of one receive queue on the thread of its user, as long as it is not disposed (Linux: busy polling): what comes is given to the interface's
/// receivers there, and the hardware is asked for no interrupt. For who has a processor for it: the device then works beside its driver, and not in turn with it.
/// </summary>
public sealed class NetPoller : IDisposable
{
    private readonly INetOps _ops;
    private readonly ReceiveSide _side;
    private readonly int _queue;
    private int _isOver;

    internal NetPoller(INetOps ops, ReceiveSide side, int queue)
    {
        _ops = ops;
        _side = side;
        _queue = queue;
    }

    /// <summary>Takes what has come, up to some hundred frames. One thread at a time.</summary>
    /// <returns>Whether there was any; none comes while the interface is down, and none any more once it is gone.</returns>
    public bool Poll()
    {
        ObjectDisposedException.ThrowIf(Volatile.Read(ref _isOver) != 0, this);
        return _ops.Poll(_queue);
    }

    /// <summary>Ends it: what comes from here on is told of by interrupts, what has come is received before it returns. Any thread, but not from inside of a receiver.</summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _isOver, 1) != 0)
            return;
        _ops.SetPolled(_queue, false);
        _side.LeavePoller();
    }
}
