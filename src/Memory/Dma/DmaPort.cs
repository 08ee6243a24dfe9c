using Virtbus.Platform;

namespace Virtbus.Memory.Dma;

/// <summary>
/// The door by which one requester (a PCI function, or one PASID of it) reaches memory. Hardware holds it and does all its DMA through it;
/// what it reaches is decided by the owner of its group. Safe from any thread; look-ups take no lock and allocate nothing.
/// </summary>
public sealed class DmaPort
{
    /// <summary>Makes the port of a function and puts it into a group.</summary>
    /// <param name="name">The requester's name for faults and logs, for example 0000:01:00.0.</param>
    /// <param name="group">The group, whose owner decides for all its ports.</param>
    public DmaPort(string name, IommuGroup group)
    {
        Name = name;
        Group = group;
    }

    /// <summary>The requester's name.</summary>
    public string Name { get; }

    /// <summary>The group.</summary>
    public IommuGroup Group { get; }

    /// <summary>The PASID that marks this port's requests; null for requests without one.</summary>
    public uint? Pasid { get; }

    /// <summary>Whether the function may do DMA at all (the command register's Bus Master Enable). Off at first.</summary>
    public bool IsBusMaster { get; set; }

    /// <summary>What the port reaches now; null when nothing is attached.</summary>
    public IoAddressSpace? AddressSpace => throw new NotSupportedException();

    /// <summary>Accesses that faulted since the port was made.</summary>
    public long Faults => throw new NotSupportedException();

    /// <summary>The port for requests of this function with a PASID; the same object at every call.</summary>
    /// <param name="pasid">1 to 2^20-1.</param>
    public DmaPort ForPasid(uint pasid) => throw new NotSupportedException();

    /// <summary>Reads memory, over the borders of ranges. A fault is counted and reported.</summary>
    /// <param name="address">First byte.</param>
    /// <param name="destination">Where to.</param>
    /// <returns>False when a part could not be read.</returns>
    public bool TryRead(Iova address, Span<byte> destination) => throw new NotSupportedException();

    /// <summary>Writes memory, over the borders of ranges, and marks it in the dirty logs. A fault is counted and reported.</summary>
    /// <param name="address">First byte.</param>
    /// <param name="source">Where from.</param>
    /// <returns>False when a part could not be written; the part before it is.</returns>
    public bool TryWrite(Iova address, ReadOnlySpan<byte> source) => throw new NotSupportedException();

    /// <summary>Starts to log the pages that this port (with its PASIDs) writes.</summary>
    /// <param name="log">The log; one at a time.</param>
    /// <param name="fault">EBUSY: a log is attached already.</param>
    public bool TryStartLog(DirtyLog log, out Fault fault) => throw new NotSupportedException();

    /// <summary>Ends logging; after the return nothing more is marked.</summary>
    public void StopLog() => throw new NotSupportedException();

    /// <summary>
    /// Called after the attached address space or a mapping of it changed, on the thread that changed it; for devices that keep a
    /// <see cref="IoMap"/>. The change completes when the call returns, so the old map must be let go by then.
    /// </summary>
    /// <param name="changed">The handler; null takes it off.</param>
    public void SetChangeCallback(Action? changed) => throw new NotSupportedException();

    /// <summary>A picture of what the port reaches now, empty when it reaches nothing; one reference belongs to the caller.</summary>
    public IoMap Snapshot() => throw new NotSupportedException();
}
