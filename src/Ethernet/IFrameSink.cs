namespace Virtbus.Ethernet;

/// <summary>
/// What lies behind a port of a switch: a queue set, a queue pair, a wire. Where it says so its port has no lane, and then it takes frames on any thread.
/// </summary>
public interface IFrameSink
{
    /// <summary>What of a frame's offload data it takes as it is; the rest is done before it is given a frame. May change; any thread.</summary>
    OffloadKinds Takes { get; }

    /// <summary>Frames for the port that were lost, by <see cref="Miss"/> or because what lies behind did not take them; 0 where nobody counts. Any thread.</summary>
    long Dropped => 0;

    /// <summary>Takes a frame, on the thread of the port's lane. What one batch brings is shown at its end, see <see cref="SwitchLane.Touch"/>.</summary>
    /// <param name="frame">The frame; valid during the call only.</param>
    void Deliver(in EthernetFrame frame);

    /// <summary>A frame for the port was lost because its lane did not keep up. Any thread.</summary>
    void Miss();

    /// <summary>A batch ends: shows the other side what was done, and tells it. On the thread of the port's lane after a touch, without a lane after each batch that brought frames.</summary>
    void Flush();
}
