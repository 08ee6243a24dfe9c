namespace Virtbus.Memory.Dma;

/// <summary>Who may let the functions of a group do DMA.</summary>
public enum DmaOwnerKind
{
    /// <summary>Nobody: every access faults.</summary>
    None,
    /// <summary>Drivers of the host; the functions see the host's own address space.</summary>
    Driver,
    /// <summary>One user; the functions see what that user attached.</summary>
    User,
}
