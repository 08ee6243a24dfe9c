namespace Virtbus.Drivers.Nic;

/// <summary>Takes a received frame.</summary>
/// <param name="frame">An Ethernet frame, valid during the call only.</param>
public delegate void NicReceive(ReadOnlySpan<byte> frame);
