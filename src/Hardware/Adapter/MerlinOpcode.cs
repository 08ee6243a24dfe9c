namespace Virtbus.Hardware.Adapter;

/// <summary>What a merlin adapter's mailbox can be asked.</summary>
public enum MerlinOpcode : uint
{
    /// <summary>Network parts in bits 0-15, vDPA parts in bits 16-31 of the reply.</summary>
    QueryCapabilities = 1,
    /// <summary>The first Ethernet address.</summary>
    QueryAddress = 2,
    /// <summary>Argument: depth. Reply: the handle of a new queue set.</summary>
    AllocateQueueSet = 3,
    /// <summary>Argument: a handle.</summary>
    FreeQueueSet = 4,
}
