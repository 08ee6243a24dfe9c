using Virtbus.Core;

namespace Virtbus.Buses.Virtio;

/// <summary>
/// An id-table entry of the virtio driver class that it stands on. The driver's table and the module's alias both come from it (Linux:
/// MODULE_DEVICE_TABLE).
/// </summary>
/// <param name="device">Virtio device type, or <see cref="VirtioMatchId.Any"/>.</param>
/// <param name="vendor">Virtio vendor id, or <see cref="VirtioMatchId.Any"/>.</param>
[AttributeUsage(AttributeTargets.Class, AllowMultiple = true, Inherited = false)]
public sealed class VirtioDeviceTableAttribute(uint device, uint vendor = VirtioMatchId.Any) : ModuleAliasAttribute(new VirtioMatchId(device, vendor).ToAlias())
{
    /// <summary>A number of the driver's own choice, handed to probe with the entry.</summary>
    public ulong DriverData { get; set; }

    internal VirtioMatchId ToId() => new(device, vendor, DriverData);
}
