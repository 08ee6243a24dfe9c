namespace Virtbus.Hardware.Adapter;

/// <summary>The registers that every make has, each at its own place and in its own width. All are 64 bits wide inside.</summary>
public enum AdapterRegister
{
    /// <summary>Nothing there: reads as 0.</summary>
    None,
    /// <summary>The make, four letters of ASCII in bits 0 to 31; the revision of the registers in bits 32 to 47.</summary>
    Identity,
    /// <summary>See <see cref="AdapterControl"/>.</summary>
    Control,
    /// <summary>See <see cref="AdapterStatus"/>. Read-only.</summary>
    Status,
    /// <summary>Why the function stopped, see <see cref="AdapterError"/>; 0 when it did not. Read-only.</summary>
    Error,
    /// <summary>Network parts in bits 0 to 15, vDPA parts in bits 16 to 31. Read-only.</summary>
    Parts,
    /// <summary>Queue sets that can be made in bits 0 to 15, log2 of the largest ring in bits 16 to 23, MSI-X vectors in bits 32 to 47. Read-only.</summary>
    Queues,
    /// <summary>Virtio windows in bits 0 to 15; virtual functions that can be enabled in bits 16 to 31; the function's own id in bits 32 to 47. Read-only.</summary>
    Windows,
    /// <summary>The first Ethernet address, 48 bits. Read-only.</summary>
    MacAddress,
    /// <summary>Where the commands are; a multiple of 64. Taken over when the function is enabled.</summary>
    CommandBase,
    /// <summary>Log2 of the number of commands, 1 to 12.</summary>
    CommandSize,
    /// <summary>What was rung last. Read-only.</summary>
    CommandProducer,
    /// <summary>Commands taken. Read-only.</summary>
    CommandConsumer,
    /// <summary>Where the events are; a multiple of 64.</summary>
    EventBase,
    /// <summary>Log2 of the number of events, 1 to 12.</summary>
    EventSize,
    /// <summary>Events written. Read-only.</summary>
    EventProducer,
    /// <summary>What was rung last. Read-only.</summary>
    EventConsumer,
}
