using Virtbus.Core;

namespace Virtbus.Buses.Pci;

/// <summary>
/// An id-table entry of the PCI driver class that it stands on. The driver's table and the module's alias both come from it (Linux:
/// MODULE_DEVICE_TABLE).
/// </summary>
/// <example><c>[PciDeviceTable(0x1b36, 0x0002)]</c>, <c>[PciDeviceTable(classCode: 0x010802, classMask: 0xFFFFFF)]</c></example>
/// <param name="vendor">Vendor id, or <see cref="PciDeviceId.Any"/>.</param>
/// <param name="device">Device id, or <see cref="PciDeviceId.Any"/>.</param>
/// <param name="subsystemVendor">Subsystem vendor id, or <see cref="PciDeviceId.Any"/>.</param>
/// <param name="subsystemDevice">Subsystem id, or <see cref="PciDeviceId.Any"/>.</param>
/// <param name="classCode">Base class, subclass and programming interface, 24 bits.</param>
/// <param name="classMask">Which bits of the class count. Only whole bytes show in the alias, as in Linux.</param>
/// <param name="isOverrideOnly">Whether the entry counts only for devices whose driver_override names the driver; its alias begins with vfio_pci:.</param>
[AttributeUsage(AttributeTargets.Class, AllowMultiple = true, Inherited = false)]
public sealed class PciDeviceTableAttribute(
    uint vendor = PciDeviceId.Any,
    uint device = PciDeviceId.Any,
    uint subsystemVendor = PciDeviceId.Any,
    uint subsystemDevice = PciDeviceId.Any,
    uint classCode = 0,
    uint classMask = 0,
    bool isOverrideOnly = false)
    : ModuleAliasAttribute(new PciDeviceId(vendor, device, subsystemVendor, subsystemDevice, classCode, classMask, 0, isOverrideOnly).ToAlias())
{
    /// <summary>A number of the driver's own choice, handed to probe with the entry.</summary>
    public ulong DriverData { get; set; }

    internal PciDeviceId ToId() =>
        new(vendor, device, subsystemVendor, subsystemDevice, classCode, classMask, DriverData, isOverrideOnly);
}
