namespace Virtbus.Memory.Dma;

/// <summary>In which way what a port reaches has changed.</summary>
public enum DmaChangeKind
{
    /// <summary>Anything may be different: another address space, other memory at the same addresses, or none, or bus mastering.</summary>
    Everything,

    /// <summary>A range is mapped that was not. What was mapped before is as it was.</summary>
    Mapped,

    /// <summary>A range is mapped no more; nobody finds it any more. What lies outside of it is as it was.</summary>
    Unmapped,
}
