namespace Virtbus.Ethernet;

/// <summary>Takes a frame. It is valid during the call only, and the call must not block.</summary>
/// <param name="frame">The frame.</param>
public delegate void FrameHandler(in EthernetFrame frame);
