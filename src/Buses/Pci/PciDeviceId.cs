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

    internal const string ModaliasPrefix = "pci:";
    internal const string OverridePrefix = "vfio_pci:";

    /// <summary>Whether a function has the ids of the entry. Says nothing of <see cref="IsOverrideOnly"/>.</summary>
    /// <param name="device">The function's identity.</param>
    public bool Covers(IPciIdentity device)
    {
        ArgumentNullException.ThrowIfNull(device);
        return (Vendor == Any || Vendor == device.VendorId)
            && (Device == Any || Device == device.DeviceId)
            && (SubsystemVendor == Any || SubsystemVendor == device.SubsystemVendorId)
            && (SubsystemDevice == Any || SubsystemDevice == device.SubsystemId)
            && ((Class ^ device.ClassCode) & ClassMask) == 0;
    }

    /// <summary>The entry as a pattern of module aliases. A byte of the class that does not count as a whole is left open, as in Linux.</summary>
    public string ToAlias() =>
        $"{(IsOverrideOnly ? OverridePrefix : ModaliasPrefix)}v{Id(Vendor)}d{Id(Device)}sv{Id(SubsystemVendor)}sd{Id(SubsystemDevice)}"
        + $"bc{ClassByte(16)}sc{ClassByte(8)}i{ClassByte(0)}";

    private static string Id(uint id) => id == Any ? "*" : $"{id:X8}";

    private string ClassByte(int shift) => ((ClassMask >> shift) & 0xFF) == 0xFF ? $"{(Class >> shift) & 0xFF:X2}" : "*";
}
