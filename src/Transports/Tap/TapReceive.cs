namespace Virtbus.Transports.Tap;

/// <summary>Takes a frame from the host.</summary>
/// <param name="frame">An Ethernet frame, valid during the call only.</param>
public delegate void TapReceive(ReadOnlySpan<byte> frame);
