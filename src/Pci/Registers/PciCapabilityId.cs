namespace Virtbus.Pci;

/// <summary>Ids of the capabilities in the first 256 bytes, and where their parts are.</summary>
public static class PciCapabilityId
{
    /// <summary>Power management.</summary>
    public const byte PCI_CAP_ID_PM = 0x01;

    /// <summary>Message-signalled interrupts.</summary>
    public const byte PCI_CAP_ID_MSI = 0x05;

    /// <summary>Vendor-specific.</summary>
    public const byte PCI_CAP_ID_VNDR = 0x09;

    /// <summary>PCI Express.</summary>
    public const byte PCI_CAP_ID_EXP = 0x10;

    /// <summary>Message-signalled interrupts from a table.</summary>
    public const byte PCI_CAP_ID_MSIX = 0x11;

    /// <summary>Offset in a capability of the next one's offset.</summary>
    public const int PCI_CAP_LIST_NEXT = 1;

    /// <summary>Offset in a vendor-specific capability of its length in bytes.</summary>
    public const int PCI_CAP_LENGTH = 2;
}
