namespace Virtbus.Platform;

/// <summary>Flags of VFIO_DEVICE_SET_IRQS: one kind of data and one action; values as in Linux's vfio.h.</summary>
[Flags]
public enum VfioIrqSetFlags : uint
{
    /// <summary>No data: the action is done to each vector of the range.</summary>
    DataNone = 1,
    /// <summary>One byte a vector: the action is done where it is not 0.</summary>
    DataBool = 2,
    /// <summary>One eventfd a vector.</summary>
    DataEventFd = 4,
    /// <summary>Mask; with eventfds: the signal of one masks.</summary>
    ActionMask = 8,
    /// <summary>Unmask; with eventfds: the signal of one unmasks.</summary>
    ActionUnmask = 0x10,
    /// <summary>Fire; with eventfds: signal them when it fires.</summary>
    ActionTrigger = 0x20,
}

/// <summary>A request to set interrupts up (VFIO_DEVICE_SET_IRQS).</summary>
public readonly ref struct VfioIrqSet
{
    /// <summary>One kind of data and one action.</summary>
    public required VfioIrqSetFlags Flags { get; init; }

    /// <summary>The interrupt index.</summary>
    public required uint Index { get; init; }

    /// <summary>First vector.</summary>
    public required uint Start { get; init; }

    /// <summary>Number of vectors; 0 with <see cref="VfioIrqSetFlags.DataNone"/> and <see cref="VfioIrqSetFlags.ActionTrigger"/> disables the index.</summary>
    public required uint Count { get; init; }

    /// <summary>With <see cref="VfioIrqSetFlags.DataBool"/>: one byte a vector.</summary>
    public ReadOnlySpan<byte> Bools { get; init; }

    /// <summary>
    /// With <see cref="VfioIrqSetFlags.DataEventFd"/>: one a vector, null takes the vector's away; or empty, which takes all of the range away.
    /// They belong to the caller; a device duplicates what it keeps.
    /// </summary>
    public ReadOnlySpan<EventFd?> EventFds { get; init; }
}
