namespace Virtbus.Pci;

/// <summary>The power management capability: byte offsets in it, and bits.</summary>
public static class PciPower
{
    /// <summary>Power management capabilities, 16 bits.</summary>
    public const int PCI_PM_PMC = 2;

    /// <summary>Control and status, 16 bits.</summary>
    public const int PCI_PM_CTRL = 4;

    /// <summary>Bytes of the capability.</summary>
    public const int PCI_PM_SIZEOF = 8;

    /// <summary>Control bits: power state, 0 for D0 and 3 for D3hot.</summary>
    public const int PCI_PM_CTRL_STATE_MASK = 0x0003;

    /// <summary>Control bit: the way from D3hot to D0 resets nothing.</summary>
    public const int PCI_PM_CTRL_NO_SOFT_RESET = 0x0008;

    /// <summary>Control bit: PME may be signalled.</summary>
    public const int PCI_PM_CTRL_PME_ENABLE = 0x0100;

    /// <summary>Control bit: PME is wanted; write 1 to clear.</summary>
    public const int PCI_PM_CTRL_PME_STATUS = 0x8000;
}
