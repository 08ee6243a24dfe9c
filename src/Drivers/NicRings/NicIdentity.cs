namespace Virtbus.Drivers.NicRings;

/// <summary>What an adapter says of itself.</summary>
/// <param name="Make">The make of adapter.</param>
/// <param name="MacAddress">The first Ethernet address, 48 bits; port N has this + N.</param>
/// <param name="NetworkParts">How many network parts it is capable of.</param>
/// <param name="VdpaParts">How many vDPA parts it is capable of.</param>
public sealed record NicIdentity(string Make, ulong MacAddress, int NetworkParts, int VdpaParts);
