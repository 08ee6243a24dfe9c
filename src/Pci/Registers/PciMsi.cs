namespace Virtbus.Pci;

/// <summary>The MSI capability: byte offsets in it, and bits.</summary>
public static class PciMsi
{
    /// <summary>Message control, 16 bits.</summary>
    public const int PCI_MSI_FLAGS = 2;

    /// <summary>Message address, bits 31-2.</summary>
    public const int PCI_MSI_ADDRESS_LO = 4;

    /// <summary>Message address, bits 63-32, when the capability is one of 64 bits.</summary>
    public const int PCI_MSI_ADDRESS_HI = 8;

    /// <summary>Message data, 16 bits, in a capability of 32 bits.</summary>
    public const int PCI_MSI_DATA_32 = 8;

    /// <summary>Mask bits in a capability of 32 bits.</summary>
    public const int PCI_MSI_MASK_32 = 12;

    /// <summary>Pending bits in a capability of 32 bits.</summary>
    public const int PCI_MSI_PENDING_32 = 16;

    /// <summary>Message data, 16 bits, in a capability of 64 bits.</summary>
    public const int PCI_MSI_DATA_64 = 12;

    /// <summary>Mask bits in a capability of 64 bits.</summary>
    public const int PCI_MSI_MASK_64 = 16;

    /// <summary>Pending bits in a capability of 64 bits.</summary>
    public const int PCI_MSI_PENDING_64 = 20;

    /// <summary>Control bit: MSI Enable.</summary>
    public const int PCI_MSI_FLAGS_ENABLE = 0x0001;

    /// <summary>Control bits: Multiple Message Capable, the binary logarithm of the number of vectors.</summary>
    public const int PCI_MSI_FLAGS_QMASK = 0x000E;

    /// <summary>Control bits: Multiple Message Enable, the binary logarithm of the number that software gave.</summary>
    public const int PCI_MSI_FLAGS_QSIZE = 0x0070;

    /// <summary>Control bit: addresses of 64 bits.</summary>
    public const int PCI_MSI_FLAGS_64BIT = 0x0080;

    /// <summary>Control bit: there are mask and pending bits.</summary>
    public const int PCI_MSI_FLAGS_MASKBIT = 0x0100;

    /// <summary>Shift of Multiple Message Enable.</summary>
    public const int PCI_MSI_FLAGS_QSIZE_SHIFT = 4;
}
