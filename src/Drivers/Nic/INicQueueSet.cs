using Virtbus.Platform;

namespace Virtbus.Drivers.Nic;

/// <summary>A way for frames out and one in, in a part's hands. What rings are behind it is the make's matter.</summary>
public interface INicQueueSet : IDisposable
{
    /// <summary>Frames that came in while there was no room for them.</summary>
    long Dropped { get; }

    /// <summary>Sends a frame. Any thread; allocates nothing.</summary>
    /// <param name="frame">An Ethernet frame; copied.</param>
    /// <param name="fault">ENOTCONN: no link, or the queue set is given back; ENOBUFS: the queue is full; EMSGSIZE: the length; EIO: the adapter stopped the queue set.</param>
    bool TryTransmit(ReadOnlySpan<byte> frame, out Fault fault);

    /// <summary>Has received frames handed to a consumer, on the adapter's thread. Once.</summary>
    /// <param name="receive">The consumer; the frame is valid during the call only.</param>
    void StartReceive(Action<ReadOnlySpan<byte>> receive);
}
