namespace Virtbus.Pci;

/// <summary>The PCI Express capability: byte offsets in it, and bits.</summary>
public static class PciExpress
{
    /// <summary>Capabilities, 16 bits: version and kind of port.</summary>
    public const int PCI_EXP_FLAGS = 0x02;

    /// <summary>Device capabilities, 32 bits.</summary>
    public const int PCI_EXP_DEVCAP = 0x04;

    /// <summary>Device control, 16 bits.</summary>
    public const int PCI_EXP_DEVCTL = 0x08;

    /// <summary>Device status, 16 bits.</summary>
    public const int PCI_EXP_DEVSTA = 0x0A;

    /// <summary>Link capabilities, 32 bits.</summary>
    public const int PCI_EXP_LNKCAP = 0x0C;

    /// <summary>Link control, 16 bits.</summary>
    public const int PCI_EXP_LNKCTL = 0x10;

    /// <summary>Link status, 16 bits.</summary>
    public const int PCI_EXP_LNKSTA = 0x12;

    /// <summary>Slot capabilities, 32 bits.</summary>
    public const int PCI_EXP_SLTCAP = 0x14;

    /// <summary>Slot control, 16 bits.</summary>
    public const int PCI_EXP_SLTCTL = 0x18;

    /// <summary>Slot status, 16 bits.</summary>
    public const int PCI_EXP_SLTSTA = 0x1A;

    /// <summary>Root control, 16 bits.</summary>
    public const int PCI_EXP_RTCTL = 0x1C;

    /// <summary>Root capabilities, 16 bits.</summary>
    public const int PCI_EXP_RTCAP = 0x1E;

    /// <summary>Root status, 32 bits.</summary>
    public const int PCI_EXP_RTSTA = 0x20;

    /// <summary>Device capabilities 2, 32 bits.</summary>
    public const int PCI_EXP_DEVCAP2 = 0x24;

    /// <summary>Device control 2, 16 bits.</summary>
    public const int PCI_EXP_DEVCTL2 = 0x28;

    /// <summary>Link capabilities 2, 32 bits.</summary>
    public const int PCI_EXP_LNKCAP2 = 0x2C;

    /// <summary>Link control 2, 16 bits.</summary>
    public const int PCI_EXP_LNKCTL2 = 0x30;

    /// <summary>Link status 2, 16 bits.</summary>
    public const int PCI_EXP_LNKSTA2 = 0x32;

    /// <summary>Bytes of version 2 of the capability.</summary>
    public const int PCI_EXP_SIZEOF = 0x3C;

    /// <summary>Capability bits: kind of port.</summary>
    public const int PCI_EXP_FLAGS_TYPE = 0x00F0;

    /// <summary>Capability bit: the port is connected to a slot.</summary>
    public const int PCI_EXP_FLAGS_SLOT = 0x0100;

    /// <summary>Device capability bits: largest payload, 128 bytes shifted by it.</summary>
    public const uint PCI_EXP_DEVCAP_PAYLOAD = 0x00000007;

    /// <summary>Device capability bit: tags of 8 bits.</summary>
    public const uint PCI_EXP_DEVCAP_EXT_TAG = 0x00000020;

    /// <summary>Device capability bit: role-based error reporting.</summary>
    public const uint PCI_EXP_DEVCAP_RBER = 0x00008000;

    /// <summary>Device capability bit: function-level reset.</summary>
    public const uint PCI_EXP_DEVCAP_FLR = 0x10000000;

    /// <summary>Device control bit: Correctable Error Reporting Enable.</summary>
    public const int PCI_EXP_DEVCTL_CERE = 0x0001;

    /// <summary>Device control bit: Non-Fatal Error Reporting Enable.</summary>
    public const int PCI_EXP_DEVCTL_NFERE = 0x0002;

    /// <summary>Device control bit: Fatal Error Reporting Enable.</summary>
    public const int PCI_EXP_DEVCTL_FERE = 0x0004;

    /// <summary>Device control bit: Unsupported Request Reporting Enable.</summary>
    public const int PCI_EXP_DEVCTL_URRE = 0x0008;

    /// <summary>Device control bit: Enable Relaxed Ordering.</summary>
    public const int PCI_EXP_DEVCTL_RELAX_EN = 0x0010;

    /// <summary>Device control bits: Max_Payload_Size.</summary>
    public const int PCI_EXP_DEVCTL_PAYLOAD = 0x00E0;

    /// <summary>Device control bit: Extended Tag Field Enable.</summary>
    public const int PCI_EXP_DEVCTL_EXT_TAG = 0x0100;

    /// <summary>Device control bit: Enable No Snoop.</summary>
    public const int PCI_EXP_DEVCTL_NOSNOOP_EN = 0x0800;

    /// <summary>Device control bits: Max_Read_Request_Size.</summary>
    public const int PCI_EXP_DEVCTL_READRQ = 0x7000;

    /// <summary>Device control bit: Initiate Function Level Reset; reads as 0.</summary>
    public const int PCI_EXP_DEVCTL_BCR_FLR = 0x8000;

    /// <summary>Device status bit: Correctable Error Detected; write 1 to clear.</summary>
    public const int PCI_EXP_DEVSTA_CED = 0x0001;

    /// <summary>Device status bit: Non-Fatal Error Detected; write 1 to clear.</summary>
    public const int PCI_EXP_DEVSTA_NFED = 0x0002;

    /// <summary>Device status bit: Fatal Error Detected; write 1 to clear.</summary>
    public const int PCI_EXP_DEVSTA_FED = 0x0004;

    /// <summary>Device status bit: Unsupported Request Detected; write 1 to clear.</summary>
    public const int PCI_EXP_DEVSTA_URD = 0x0008;

    /// <summary>Device status bit: Transactions Pending.</summary>
    public const int PCI_EXP_DEVSTA_TRPND = 0x0020;

    /// <summary>Slot status bit: a card is present.</summary>
    public const int PCI_EXP_SLTSTA_PDS = 0x0040;

    /// <summary>Link status bit: the link is up.</summary>
    public const int PCI_EXP_LNKSTA_DLLLA = 0x2000;

    /// <summary>Device capability 2 bit: ARI Forwarding.</summary>
    public const uint PCI_EXP_DEVCAP2_ARI = 0x00000020;

    /// <summary>Device capability 2 bit: end-to-end TLP prefixes, which carry PASIDs.</summary>
    public const uint PCI_EXP_DEVCAP2_EE_PREFIX = 0x00200000;

    /// <summary>Device control 2 bit: ARI Forwarding Enable.</summary>
    public const int PCI_EXP_DEVCTL2_ARI = 0x0020;
}
