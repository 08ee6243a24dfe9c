namespace Virtbus.Pci;

/// <summary>The SR-IOV capability: byte offsets in it, and bits.</summary>
public static class PciSriov
{
    /// <summary>Capabilities, 32 bits.</summary>
    public const int PCI_SRIOV_CAP = 0x04;

    /// <summary>Control, 16 bits.</summary>
    public const int PCI_SRIOV_CTRL = 0x08;

    /// <summary>Status, 16 bits.</summary>
    public const int PCI_SRIOV_STATUS = 0x0A;

    /// <summary>InitialVFs, 16 bits.</summary>
    public const int PCI_SRIOV_INITIAL_VF = 0x0C;

    /// <summary>TotalVFs, 16 bits.</summary>
    public const int PCI_SRIOV_TOTAL_VF = 0x0E;

    /// <summary>NumVFs, 16 bits.</summary>
    public const int PCI_SRIOV_NUM_VF = 0x10;

    /// <summary>Function Dependency Link, 8 bits.</summary>
    public const int PCI_SRIOV_FUNC_LINK = 0x12;

    /// <summary>First VF Offset, 16 bits.</summary>
    public const int PCI_SRIOV_VF_OFFSET = 0x14;

    /// <summary>VF Stride, 16 bits.</summary>
    public const int PCI_SRIOV_VF_STRIDE = 0x16;

    /// <summary>VF Device ID, 16 bits.</summary>
    public const int PCI_SRIOV_VF_DID = 0x1A;

    /// <summary>Supported Page Sizes, 32 bits: bit n for pages of 2^(n+12) bytes.</summary>
    public const int PCI_SRIOV_SUP_PGSIZE = 0x1C;

    /// <summary>System Page Size, 32 bits, one of them set.</summary>
    public const int PCI_SRIOV_SYS_PGSIZE = 0x20;

    /// <summary>First of six base address registers for the VFs.</summary>
    public const int PCI_SRIOV_BAR = 0x24;

    /// <summary>VF Migration State Array Offset, 32 bits.</summary>
    public const int PCI_SRIOV_VFM = 0x3C;

    /// <summary>Bytes of the capability.</summary>
    public const int PCI_EXT_CAP_SRIOV_SIZEOF = 0x40;

    /// <summary>Capability bit: ARI Capable Hierarchy Preserved.</summary>
    public const uint PCI_SRIOV_CAP_ARI_PRESERVED = 0x00000002;

    /// <summary>Control bit: VF Enable.</summary>
    public const int PCI_SRIOV_CTRL_VFE = 0x0001;

    /// <summary>Control bit: VF Memory Space Enable.</summary>
    public const int PCI_SRIOV_CTRL_MSE = 0x0008;

    /// <summary>Control bit: ARI Capable Hierarchy.</summary>
    public const int PCI_SRIOV_CTRL_ARI = 0x0010;
}
