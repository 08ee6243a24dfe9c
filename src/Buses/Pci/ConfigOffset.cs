namespace Virtbus.Buses.Pci;

/// <summary>Where the standard puts things in config space, as far as the bus touches them (PCI Local Bus 3.0 6.1, PCI Express Base 7.5 and 9.3).</summary>
internal static class ConfigOffset
{
    public const int VendorId = 0x00;
    public const int DeviceId = 0x02;
    public const int Command = 0x04;
    public const int Status = 0x06;
    public const int Revision = 0x08;
    public const int HeaderType = 0x0E;
    public const int Bar0 = 0x10;
    public const int SubsystemVendorId = 0x2C;
    public const int SubsystemId = 0x2E;
    public const int Rom = 0x30;
    public const int CapabilityPointer = 0x34;
    public const int InterruptLine = 0x3C;
    public const int InterruptPin = 0x3D;

    // Bridges (header type 1).
    public const int PrimaryBus = 0x18;
    public const int SecondaryBus = 0x19;
    public const int SubordinateBus = 0x1A;
    public const int IoBase = 0x1C;
    public const int IoLimit = 0x1D;
    public const int MemoryBase = 0x20;
    public const int MemoryLimit = 0x22;
    public const int PrefetchBase = 0x24;
    public const int PrefetchLimit = 0x26;
    public const int PrefetchBaseUpper = 0x28;
    public const int PrefetchLimitUpper = 0x2C;
    public const int IoBaseUpper = 0x30;
    public const int IoLimitUpper = 0x32;
    public const int BridgeRom = 0x38;
    public const int BridgeControl = 0x3E;
    public const ushort SecondaryBusReset = 0x40;

    // Command register.
    public const ushort CommandIo = 0x1;
    public const ushort CommandMemory = 0x2;
    public const ushort CommandMaster = 0x4;
    public const ushort CommandInterruptDisable = 0x400;

    // Capabilities.
    public const byte PowerManagement = 0x01;
    public const byte Msi = 0x05;
    public const byte SubsystemIds = 0x0D;
    public const byte Express = 0x10;
    public const byte MsiX = 0x11;
    public const byte AdvancedFeatures = 0x13;
    public const ushort Ats = 0x000F;
    public const ushort Ari = 0x000E;
    public const ushort SriovId = 0x0010;
    public const ushort Pasid = 0x001B;

    // PCI Express capability.
    public const int ExpressDeviceCapabilities = 0x04;
    public const int ExpressDeviceControl = 0x08;
    public const int ExpressLinkCapabilities = 0x0C;
    public const int ExpressLinkControl = 0x10;
    public const int ExpressLinkStatus = 0x12;
    public const int ExpressDeviceCapabilities2 = 0x24;
    public const int ExpressDeviceControl2 = 0x28;
    public const int ExpressLinkControl2 = 0x30;
    public const uint ExpressFunctionReset = 1u << 28;
    public const ushort ExpressInitiateReset = 1 << 15;
    public const ushort ExpressAriForwarding = 1 << 5;

    // SR-IOV extended capability.
    public const int SriovControl = 0x08;
    public const int SriovTotal = 0x0E;
    public const int SriovNum = 0x10;
    public const int SriovOffset = 0x14;
    public const int SriovStride = 0x16;
    public const int SriovDeviceId = 0x1A;
    public const int SriovPageSize = 0x20;
    public const int SriovBar0 = 0x24;
    public const ushort SriovEnable = 0x1;
    public const ushort SriovMemory = 0x8;
    public const ushort SriovAriHierarchy = 0x10;
}
