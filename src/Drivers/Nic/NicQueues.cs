using Virtbus.Hardware.Adapter;
using Virtbus.Platform;

namespace Virtbus.Drivers.Nic;

/// <summary>A queue set in a part's hands.</summary>
public sealed class NicQueues : IDisposable
{
    private readonly NicCore _core;
    private readonly QueueSet _set;
    private readonly Lock _transmit = new();
    private int _disposed;

    internal NicQueues(NicCore core, QueueSet set)
    {
        _core = core;
        _set = set;
    }

    /// <summary>Frames that came in while the receive queue was full.</summary>
    public long Dropped => _set.Dropped;

    /// <summary>Sends a frame. Any thread.</summary>
    /// <param name="frame">An Ethernet frame; copied.</param>
    /// <param name="fault">ENOTCONN: no link; ENOBUFS: the queue is full.</param>
    public bool TryTransmit(ReadOnlySpan<byte> frame, out Fault fault)
    {
        if (!_core.IsLinkUp)
        {
            fault = new Fault(Errno.ENOTCONN, "the link is down");
            return false;
        }
        lock (_transmit)
        {
            if (!_set.Transmit.TryWrite(frame))
            {
                fault = new Fault(Errno.ENOBUFS, "the transmit queue is full");
                return false;
            }
        }
        _set.RingDoorbell();
        fault = Fault.None;
        return true;
    }

    /// <summary>Has received frames handed to a consumer, on the adapter's thread.</summary>
    /// <param name="receive">The consumer; the frame is valid during the call only.</param>
    public void StartReceive(Action<ReadOnlySpan<byte>> receive)
    {
        ArgumentNullException.ThrowIfNull(receive);
        _set.SetInterrupt(() => _set.Receive.Drain(receive));
    }

    /// <summary>Gives the queue set back. When it returns, the consumer is not called any more.</summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) == 0)
            _core.Free(_set);
    }
}
