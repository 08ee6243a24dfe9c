namespace Virtbus.Subsystems.Net;

/// <summary>Gets the frames that an interface receives.</summary>
public interface IFrameReceiver
{
    /// <summary>Takes a frame. Runs on the driver's receive thread; must not block. The frame is valid during the call only.</summary>
    /// <param name="device">The interface that received it.</param>
    /// <param name="frame">An Ethernet frame.</param>
    void Receive(NetDevice device, ReadOnlySpan<byte> frame);
}
