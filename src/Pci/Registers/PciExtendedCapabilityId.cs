namespace Virtbus.Pci;

/// <summary>Ids of the capabilities from offset 256 on.</summary>
public static class PciExtendedCapabilityId
{
    /// <summary>Advanced error reporting.</summary>
    public const ushort PCI_EXT_CAP_ID_ERR = 0x0001;

    /// <summary>Device serial number.</summary>
    public const ushort PCI_EXT_CAP_ID_DSN = 0x0003;

    /// <summary>Vendor-specific.</summary>
    public const ushort PCI_EXT_CAP_ID_VNDR = 0x000B;

    /// <summary>Alternative routing id interpretation.</summary>
    public const ushort PCI_EXT_CAP_ID_ARI = 0x000E;

    /// <summary>Address translation services.</summary>
    public const ushort PCI_EXT_CAP_ID_ATS = 0x000F;

    /// <summary>Single root I/O virtualization.</summary>
    public const ushort PCI_EXT_CAP_ID_SRIOV = 0x0010;

    /// <summary>Process address space ids.</summary>
    public const ushort PCI_EXT_CAP_ID_PASID = 0x001B;
}
