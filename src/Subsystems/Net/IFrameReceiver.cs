using Virtbus.Ethernet;

namespace Virtbus.Subsystems.Net;

/// <summary>Gets the frames that an interface receives.</summary>
public interface IFrameReceiver
{
    /// <summary>What of a frame's offload data it takes as it is; the rest is done before it is given a frame. Nothing when not said. May change; any thread.</summary>
    OffloadKinds Takes => OffloadKinds.None;

    /// <summary>Takes a frame. Runs on the driver's receive thread, for each queue one frame at a time; must not block. The frame is valid during the call only.</summary>
    /// <param name="device">The interface that received it.</param>
    /// <param name="queue">The queue that it came by.</param>
    /// <param name="frame">The frame; its offload data fits it.</param>
    void Receive(NetDevice device, int queue, in EthernetFrame frame);

    /// <summary>For now no more frames come by a queue; on the same thread.</summary>
    /// <param name="device">The interface.</param>
    /// <param name="queue">The queue.</param>
    void EndBatch(NetDevice device, int queue)
    {
    }
}
