using Virtbus.Platform;

namespace Virtbus.Memory.Dma;

/// <summary>Memory that this process cannot map: a peer moves the bytes on request (vfio-user's DMA_READ and DMA_WRITE).</summary>
/// <remarks>Called on the thread of the function that does DMA; it may wait for the peer. Never called under a lock of the library.</remarks>
public interface IRemoteMemory
{
    /// <summary>Copies from the peer's memory.</summary>
    /// <param name="address">First byte, as the peer mapped it.</param>
    /// <param name="destination">Where to.</param>
    /// <param name="fault">What the peer answered; EAGAIN: it is unmapping the range at this moment; ECONNRESET when it is gone.</param>
    bool TryRead(Iova address, Span<byte> destination, out Fault fault);

    /// <summary>Copies into the peer's memory.</summary>
    /// <param name="address">First byte, as the peer mapped it.</param>
    /// <param name="source">Where from.</param>
    /// <param name="fault">As <see cref="TryRead"/>.</param>
    bool TryWrite(Iova address, ReadOnlySpan<byte> source, out Fault fault);
}
