namespace Virtbus.Pci;

/// <summary>Byte offsets in the configuration header, types 0 and 1 (PCI Express Base, chapter 7.5.1).</summary>
public static class PciHeader
{
    /// <summary>Vendor id, 16 bits.</summary>
    public const int PCI_VENDOR_ID = 0x00;

    /// <summary>Device id, 16 bits.</summary>
    public const int PCI_DEVICE_ID = 0x02;

    /// <summary>Command, 16 bits; see <see cref="PciCommand"/>.</summary>
    public const int PCI_COMMAND = 0x04;

    /// <summary>Status, 16 bits; see <see cref="PciStatus"/>.</summary>
    public const int PCI_STATUS = 0x06;

    /// <summary>Revision, 8 bits.</summary>
    public const int PCI_REVISION_ID = 0x08;

    /// <summary>Programming interface; subclass and base class follow.</summary>
    public const int PCI_CLASS_PROG = 0x09;

    /// <summary>Subclass and base class, 16 bits.</summary>
    public const int PCI_CLASS_DEVICE = 0x0A;

    /// <summary>Cache line size, 8 bits.</summary>
    public const int PCI_CACHE_LINE_SIZE = 0x0C;

    /// <summary>Latency timer, 8 bits.</summary>
    public const int PCI_LATENCY_TIMER = 0x0D;

    /// <summary>Header type, 8 bits; bit 7 says that the device has more than one function.</summary>
    public const int PCI_HEADER_TYPE = 0x0E;

    /// <summary>Built-in self test, 8 bits.</summary>
    public const int PCI_BIST = 0x0F;

    /// <summary>First base address register; a type 0 header has six, a type 1 header two.</summary>
    public const int PCI_BASE_ADDRESS_0 = 0x10;

    /// <summary>Last base address register of a type 0 header.</summary>
    public const int PCI_BASE_ADDRESS_5 = 0x24;

    /// <summary>CardBus CIS pointer, type 0.</summary>
    public const int PCI_CARDBUS_CIS = 0x28;

    /// <summary>Subsystem vendor id, type 0.</summary>
    public const int PCI_SUBSYSTEM_VENDOR_ID = 0x2C;

    /// <summary>Subsystem id, type 0.</summary>
    public const int PCI_SUBSYSTEM_ID = 0x2E;

    /// <summary>Expansion ROM base address, type 0.</summary>
    public const int PCI_ROM_ADDRESS = 0x30;

    /// <summary>Offset of the first capability, 8 bits.</summary>
    public const int PCI_CAPABILITY_LIST = 0x34;

    /// <summary>Interrupt line, 8 bits; only software uses it.</summary>
    public const int PCI_INTERRUPT_LINE = 0x3C;

    /// <summary>Interrupt pin, 8 bits: 0 none, 1 INTA to 4 INTD.</summary>
    public const int PCI_INTERRUPT_PIN = 0x3D;

    /// <summary>Min_Gnt, type 0.</summary>
    public const int PCI_MIN_GNT = 0x3E;

    /// <summary>Max_Lat, type 0.</summary>
    public const int PCI_MAX_LAT = 0x3F;

    /// <summary>Primary bus number, type 1.</summary>
    public const int PCI_PRIMARY_BUS = 0x18;

    /// <summary>Secondary bus number, type 1.</summary>
    public const int PCI_SECONDARY_BUS = 0x19;

    /// <summary>Subordinate bus number, type 1.</summary>
    public const int PCI_SUBORDINATE_BUS = 0x1A;

    /// <summary>Latency timer of the secondary side, type 1.</summary>
    public const int PCI_SEC_LATENCY_TIMER = 0x1B;

    /// <summary>I/O window, base bits 15-12, type 1.</summary>
    public const int PCI_IO_BASE = 0x1C;

    /// <summary>I/O window, limit bits 15-12, type 1.</summary>
    public const int PCI_IO_LIMIT = 0x1D;

    /// <summary>Status of the secondary side, type 1.</summary>
    public const int PCI_SEC_STATUS = 0x1E;

    /// <summary>Memory window, base bits 31-20, type 1.</summary>
    public const int PCI_MEMORY_BASE = 0x20;

    /// <summary>Memory window, limit bits 31-20, type 1.</summary>
    public const int PCI_MEMORY_LIMIT = 0x22;

    /// <summary>Prefetchable window, base bits 31-20, type 1.</summary>
    public const int PCI_PREF_MEMORY_BASE = 0x24;

    /// <summary>Prefetchable window, limit bits 31-20, type 1.</summary>
    public const int PCI_PREF_MEMORY_LIMIT = 0x26;

    /// <summary>Prefetchable window, base bits 63-32, type 1.</summary>
    public const int PCI_PREF_BASE_UPPER32 = 0x28;

    /// <summary>Prefetchable window, limit bits 63-32, type 1.</summary>
    public const int PCI_PREF_LIMIT_UPPER32 = 0x2C;

    /// <summary>I/O window, base bits 31-16, type 1.</summary>
    public const int PCI_IO_BASE_UPPER16 = 0x30;

    /// <summary>I/O window, limit bits 31-16, type 1.</summary>
    public const int PCI_IO_LIMIT_UPPER16 = 0x32;

    /// <summary>Expansion ROM base address, type 1.</summary>
    public const int PCI_ROM_ADDRESS1 = 0x38;

    /// <summary>Bridge control, type 1; see <see cref="PciBridgeControl"/>.</summary>
    public const int PCI_BRIDGE_CONTROL = 0x3E;

    /// <summary>Header type 0: a function that is no bridge.</summary>
    public const int PCI_HEADER_TYPE_NORMAL = 0x00;

    /// <summary>Header type 1: a bridge between PCI buses.</summary>
    public const int PCI_HEADER_TYPE_BRIDGE = 0x01;

    /// <summary>Header type bit: the device has more than one function.</summary>
    public const int PCI_HEADER_TYPE_MFD = 0x80;

    /// <summary>Base address bit: I/O ports, and not memory.</summary>
    public const int PCI_BASE_ADDRESS_SPACE_IO = 0x01;

    /// <summary>Base address bit: anywhere in 64 bits, with the next register as the upper half.</summary>
    public const int PCI_BASE_ADDRESS_MEM_TYPE_64 = 0x04;

    /// <summary>Base address bit: prefetchable.</summary>
    public const int PCI_BASE_ADDRESS_MEM_PREFETCH = 0x08;

    /// <summary>ROM address bit: the ROM decodes.</summary>
    public const int PCI_ROM_ADDRESS_ENABLE = 0x01;

    /// <summary>Bytes of the configuration space of conventional PCI.</summary>
    public const int PCI_CFG_SPACE_SIZE = 256;

    /// <summary>Bytes of the configuration space of PCI Express.</summary>
    public const int PCI_CFG_SPACE_EXP_SIZE = 4096;
}
