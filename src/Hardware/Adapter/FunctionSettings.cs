namespace Virtbus.Hardware.Adapter;

/// <summary>What a function that the physical one commands is to be.</summary>
/// <param name="MacAddress">Its Ethernet address, 48 bits.</param>
/// <param name="QueueSets">How many queue sets it can make.</param>
internal readonly record struct FunctionSettings(ulong MacAddress, int QueueSets);
