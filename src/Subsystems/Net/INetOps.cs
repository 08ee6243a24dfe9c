using Virtbus.Platform;

namespace Virtbus.Subsystems.Net;

/// <summary>What a network driver does for its interface (Linux: net_device_ops).</summary>
public interface INetOps
{
    /// <summary>Brings the interface up: from here on frames flow.</summary>
    /// <param name="device">The interface.</param>
    ValueTask OpenAsync(NetDevice device);

    /// <summary>Takes the interface down: when it returns no frame is delivered any more.</summary>
    /// <param name="device">The interface.</param>
    ValueTask StopAsync(NetDevice device);

    /// <summary>Sends one frame. Any thread; must not block or allocate.</summary>
    /// <param name="frame">An Ethernet frame, copied before return.</param>
    /// <param name="fault">ENOBUFS: the queue is full.</param>
    bool TryTransmit(ReadOnlySpan<byte> frame, out Fault fault);
}
