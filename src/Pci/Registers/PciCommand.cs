namespace Virtbus.Pci;

/// <summary>Bits of the command register.</summary>
public static class PciCommand
{
    /// <summary>I/O Space Enable.</summary>
    public const int PCI_COMMAND_IO = 0x0001;

    /// <summary>Memory Space Enable.</summary>
    public const int PCI_COMMAND_MEMORY = 0x0002;

    /// <summary>Bus Master Enable: requests to memory, messages included.</summary>
    public const int PCI_COMMAND_MASTER = 0x0004;

    /// <summary>Parity Error Response.</summary>
    public const int PCI_COMMAND_PARITY = 0x0040;

    /// <summary>SERR# Enable.</summary>
    public const int PCI_COMMAND_SERR = 0x0100;

    /// <summary>Interrupt Disable: the INTx line is not asserted.</summary>
    public const int PCI_COMMAND_INTX_DISABLE = 0x0400;
}
