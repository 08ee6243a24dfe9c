namespace Virtbus.Drivers.NicRings;

/// <summary>What the hardware makes a virtual function.</summary>
/// <param name="MacAddress">Its Ethernet address, 48 bits, no group.</param>
/// <param name="QueueSets">How many queue sets it can make, 1 to 16.</param>
internal readonly record struct NicVfSettings(ulong MacAddress, int QueueSets);
