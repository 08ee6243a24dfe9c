namespace Virtbus.Pci;

/// <summary>The MSI-X capability and its table: byte offsets, and bits.</summary>
public static class PciMsix
{
    /// <summary>Message control, 16 bits.</summary>
    public const int PCI_MSIX_FLAGS = 2;

    /// <summary>Offset of the table in a BAR; the low three bits say which BAR.</summary>
    public const int PCI_MSIX_TABLE = 4;

    /// <summary>Offset of the pending bits in a BAR; the low three bits say which BAR.</summary>
    public const int PCI_MSIX_PBA = 8;

    /// <summary>Bytes of the capability.</summary>
    public const int PCI_CAP_MSIX_SIZEOF = 12;

    /// <summary>Control bits: number of vectors less one.</summary>
    public const int PCI_MSIX_FLAGS_QSIZE = 0x07FF;

    /// <summary>Control bit: Function Mask.</summary>
    public const int PCI_MSIX_FLAGS_MASKALL = 0x4000;

    /// <summary>Control bit: MSI-X Enable.</summary>
    public const int PCI_MSIX_FLAGS_ENABLE = 0x8000;

    /// <summary>Bits of a table or PBA register that name the BAR.</summary>
    public const int PCI_MSIX_BIR = 0x07;

    /// <summary>Bytes of a table entry.</summary>
    public const int PCI_MSIX_ENTRY_SIZE = 16;

    /// <summary>Offset in an entry: address, bits 31-2.</summary>
    public const int PCI_MSIX_ENTRY_LOWER_ADDR = 0;

    /// <summary>Offset in an entry: address, bits 63-32.</summary>
    public const int PCI_MSIX_ENTRY_UPPER_ADDR = 4;

    /// <summary>Offset in an entry: data.</summary>
    public const int PCI_MSIX_ENTRY_DATA = 8;

    /// <summary>Offset in an entry: vector control.</summary>
    public const int PCI_MSIX_ENTRY_VECTOR_CTRL = 12;

    /// <summary>Vector control bit: masked.</summary>
    public const uint PCI_MSIX_ENTRY_CTRL_MASKBIT = 0x00000001;

    /// <summary>Vectors at most.</summary>
    public const int PCI_MSIX_MAX_VECTORS = 2048;
}
