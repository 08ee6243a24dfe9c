namespace Virtbus.Buses.Auxiliary;

/// <summary>What the bus needs of a driver, whatever device type it takes.</summary>
internal interface IAuxiliaryDriver
{
    AuxiliaryIdTable IdTable { get; }

    ValueTask AddDynamicIdAsync(AuxiliaryDeviceId id);

    ValueTask RemoveDynamicIdAsync(string name);
}
