namespace Virtbus.Drivers.NicRings;

/// <summary>What a virtual function is to be, said before it exists (PV-01).</summary>
/// <param name="MacAddress">Its Ethernet address, 48 bits, no group.</param>
/// <param name="QueueSets">How many queue sets it can make, 1 to 16.</param>
public sealed record NicVfProfile(ulong MacAddress, int QueueSets);
