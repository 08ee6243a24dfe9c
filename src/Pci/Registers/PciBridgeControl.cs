namespace Virtbus.Pci;

/// <summary>Bits of the bridge control register.</summary>
public static class PciBridgeControl
{
    /// <summary>Parity Error Response Enable.</summary>
    public const int PCI_BRIDGE_CTL_PARITY = 0x0001;

    /// <summary>SERR# Enable.</summary>
    public const int PCI_BRIDGE_CTL_SERR = 0x0002;

    /// <summary>ISA Enable.</summary>
    public const int PCI_BRIDGE_CTL_ISA = 0x0004;

    /// <summary>VGA Enable.</summary>
    public const int PCI_BRIDGE_CTL_VGA = 0x0008;

    /// <summary>VGA 16-bit decode.</summary>
    public const int PCI_BRIDGE_CTL_VGA_16BIT = 0x0010;

    /// <summary>Secondary Bus Reset: while set, what is behind the bridge is in reset.</summary>
    public const int PCI_BRIDGE_CTL_BUS_RESET = 0x0040;
}
