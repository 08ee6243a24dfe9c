namespace Virtbus.Subsystems.Net;

/// <summary>What a driver says of an interface that it registers.</summary>
/// <param name="Address">The Ethernet address, 48 bits.</param>
/// <param name="PhysicalPortName">The port's name on the adapter, for example <c>p0</c>.</param>
/// <param name="MaxMtu">The largest MTU that can be set, in bytes.</param>
/// <param name="Carrier">Whether the link carries now.</param>
public sealed record NetDeviceOptions(ulong Address, string PhysicalPortName, int MaxMtu = 9000, bool Carrier = true);
