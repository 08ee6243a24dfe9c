namespace Virtbus.Pci;

/// <summary>How a function interrupts now, by what software enabled.</summary>
public enum PciInterruptMode
{
    /// <summary>By its line, if it has a pin.</summary>
    Line,
    /// <summary>By messages of the MSI capability.</summary>
    Msi,
    /// <summary>By messages of the MSI-X table.</summary>
    MsiX,
}
