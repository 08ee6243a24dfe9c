namespace Virtbus.Pci;

/// <summary>Small extended capabilities: byte offsets in them, and bits.</summary>
public static class PciExtended
{
    /// <summary>ARI capability register, 16 bits; bits 15-8 are the next function number.</summary>
    public const int PCI_ARI_CAP = 4;

    /// <summary>ARI control register, 16 bits.</summary>
    public const int PCI_ARI_CTRL = 6;

    /// <summary>ATS capability register, 16 bits.</summary>
    public const int PCI_ATS_CAP = 4;

    /// <summary>ATS control register, 16 bits.</summary>
    public const int PCI_ATS_CTRL = 6;

    /// <summary>ATS capability bit: untranslated addresses are page aligned.</summary>
    public const int PCI_ATS_CAP_PAGE_ALIGNED = 0x0020;

    /// <summary>ATS capability bit: invalidations for all PASIDs.</summary>
    public const int PCI_ATS_CAP_GLOBAL_INVALIDATE = 0x0040;

    /// <summary>ATS control bit: Enable.</summary>
    public const int PCI_ATS_CTRL_ENABLE = 0x8000;

    /// <summary>ATS control bits: smallest translation unit.</summary>
    public const int PCI_ATS_CTRL_STU = 0x001F;

    /// <summary>PASID capability register, 16 bits; bits 12-8 are the width.</summary>
    public const int PCI_PASID_CAP = 4;

    /// <summary>PASID control register, 16 bits.</summary>
    public const int PCI_PASID_CTRL = 6;

    /// <summary>PASID capability bit: execute permission.</summary>
    public const int PCI_PASID_CAP_EXEC = 0x0002;

    /// <summary>PASID capability bit: privileged mode.</summary>
    public const int PCI_PASID_CAP_PRIV = 0x0004;

    /// <summary>PASID control bit: Enable.</summary>
    public const int PCI_PASID_CTRL_ENABLE = 0x0001;

    /// <summary>PASID control bit: execute permission is enabled.</summary>
    public const int PCI_PASID_CTRL_EXEC = 0x0002;

    /// <summary>PASID control bit: privileged mode is enabled.</summary>
    public const int PCI_PASID_CTRL_PRIV = 0x0004;

    /// <summary>Device serial number, 64 bits.</summary>
    public const int PCI_DSN_CAP = 4;

    /// <summary>Header of a vendor-specific capability, 32 bits: id, revision, length.</summary>
    public const int PCI_VNDR_HEADER = 4;

    /// <summary>Uncorrectable error status, 32 bits; write 1 to clear.</summary>
    public const int PCI_ERR_UNCOR_STATUS = 0x04;

    /// <summary>Uncorrectable error mask, 32 bits.</summary>
    public const int PCI_ERR_UNCOR_MASK = 0x08;

    /// <summary>Uncorrectable error severity, 32 bits.</summary>
    public const int PCI_ERR_UNCOR_SEVER = 0x0C;

    /// <summary>Correctable error status, 32 bits; write 1 to clear.</summary>
    public const int PCI_ERR_COR_STATUS = 0x10;

    /// <summary>Correctable error mask, 32 bits.</summary>
    public const int PCI_ERR_COR_MASK = 0x14;

    /// <summary>Advanced error capabilities and control, 32 bits.</summary>
    public const int PCI_ERR_CAP = 0x18;

    /// <summary>Header log, 16 bytes.</summary>
    public const int PCI_ERR_HEADER_LOG = 0x1C;

    /// <summary>Root error command, 32 bits.</summary>
    public const int PCI_ERR_ROOT_COMMAND = 0x2C;

    /// <summary>Root error status, 32 bits; write 1 to clear.</summary>
    public const int PCI_ERR_ROOT_STATUS = 0x30;

    /// <summary>Error source ids, 32 bits.</summary>
    public const int PCI_ERR_ROOT_ERR_SRC = 0x34;
}
