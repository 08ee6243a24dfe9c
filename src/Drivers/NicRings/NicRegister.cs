namespace Virtbus.Drivers.NicRings;

/// <summary>The registers that every make of adapter has, each at its own place; see docs/adapter-registers.md.</summary>
public enum NicRegister
{
    /// <summary>Four letters that name the make, and the revision of the registers.</summary>
    Identity,
    /// <summary>Enable and reset.</summary>
    Control,
    /// <summary>What the function is doing.</summary>
    Status,
    /// <summary>Why it stopped.</summary>
    Error,
    /// <summary>Parts that it is capable of.</summary>
    Parts,
    /// <summary>Queue sets, ring sizes and vectors.</summary>
    Queues,
    /// <summary>Virtio windows and virtual functions.</summary>
    Windows,
    /// <summary>The first Ethernet address.</summary>
    MacAddress,
    /// <summary>Where the commands are.</summary>
    CommandBase,
    /// <summary>Log2 of their number.</summary>
    CommandSize,
    /// <summary>Where the events are.</summary>
    EventBase,
    /// <summary>Log2 of their number.</summary>
    EventSize,
}
