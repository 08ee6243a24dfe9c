namespace Virtbus.Ethernet;

/// <summary>What lies behind a port of a switch: a queue set, a queue pair, a wire.</summary>
public interface IFrameSink
{
    /// <summary>Takes a frame, on the thread of the port's lane. What one batch brings is shown at its end, see <see cref="SwitchLane.Touch"/>.</summary>
    /// <param name="frame">The frame; valid during the call only.</param>
    void Deliver(in EthernetFrame frame);

    /// <summary>A frame for the port was lost because its lane did not keep up. Any thread.</summary>
    void Miss();

    /// <summary>A batch ends: shows the other side what was done, and tells it. On the thread of the port's lane, after a touch.</summary>
    void Flush();
}
