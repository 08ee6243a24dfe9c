using Virtbus.Core;

namespace Virtbus.Buses.Pci;

/// <summary>An entry of a PCI driver's id table.</summary>
/// <param name="Vendor">Vendor id, or <see cref="Any"/>.</param>
/// <param name="Device">Device id, or <see cref="Any"/>.</param>
/// <param name="SubsystemVendor">Subsystem vendor id, or <see cref="Any"/>.</param>
/// <param name="SubsystemDevice">Subsystem id, or <see cref="Any"/>.</param>
/// <param name="Class">Base class, subclass and programming interface, 24 bits.</param>
/// <param name="ClassMask">Which bits of <paramref name="Class"/> count.</param>
/// <param name="DriverData">A number of the driver's own choice.</param>
/// <param name="IsOverrideOnly">Whether the entry counts only for devices whose driver_override names the driver.</param>
public sealed record PciDeviceId(
    uint Vendor = PciDeviceId.Any,
    uint Device = PciDeviceId.Any,
    uint SubsystemVendor = PciDeviceId.Any,
    uint SubsystemDevice = PciDeviceId.Any,
    uint Class = 0,
    uint ClassMask = 0,
    ulong DriverData = 0,
    bool IsOverrideOnly = false) : DeviceId(DriverData)
{
    /// <summary>Matches every id.</summary>
    public const uint Any = 0xFFFFFFFF;
}
