namespace Virtbus.Pci;

/// <summary>How a function is reset.</summary>
public enum PciResetKind
{
    /// <summary>By the slot's reset line or a bridge's secondary bus reset: as after power-on.</summary>
    Conventional,
    /// <summary>By its own reset bit or the way from D3hot to D0: sticky bits and those of the link stay.</summary>
    FunctionLevel,
}
