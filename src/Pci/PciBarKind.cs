namespace Virtbus.Pci;

/// <summary>What a base address register decodes.</summary>
public enum PciBarKind
{
    /// <summary>The register is not there (or is the upper half of a 64-bit one).</summary>
    None,
    /// <summary>I/O ports.</summary>
    Io,
    /// <summary>Memory below 4 GiB.</summary>
    Memory32,
    /// <summary>Memory anywhere; the register takes the next one's place too.</summary>
    Memory64,
    /// <summary>The expansion ROM.</summary>
    Rom,
}
