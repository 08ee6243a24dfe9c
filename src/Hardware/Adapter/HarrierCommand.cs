namespace Virtbus.Hardware.Adapter;

/// <summary>Commands of a harrier adapter.</summary>
public enum HarrierCommand : uint
{
    /// <summary>Argument: depth. Result: the index of a new queue set.</summary>
    AllocateQueueSet = 1,
    /// <summary>Argument: an index.</summary>
    FreeQueueSet = 2,
}
