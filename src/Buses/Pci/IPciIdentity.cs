using Virtbus.Core;

namespace Virtbus.Buses.Pci;

/// <summary>What the PCI bus matches by.</summary>
public interface IPciIdentity : IDeviceIdentity
{
    /// <summary>Vendor id.</summary>
    ushort VendorId { get; }

    /// <summary>Device id.</summary>
    ushort DeviceId { get; }

    /// <summary>Subsystem vendor id.</summary>
    ushort SubsystemVendorId { get; }

    /// <summary>Subsystem id.</summary>
    ushort SubsystemId { get; }

    /// <summary>Base class, subclass, programming interface: 24 bits.</summary>
    uint ClassCode { get; }
}
