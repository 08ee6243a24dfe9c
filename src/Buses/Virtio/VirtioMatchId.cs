using Virtbus.Core;

namespace Virtbus.Buses.Virtio;

/// <summary>An entry of a virtio driver's id table (Linux: struct virtio_device_id).</summary>
/// <param name="Device">Virtio device type, or <see cref="Any"/>.</param>
/// <param name="Vendor">Virtio vendor id, or <see cref="Any"/>.</param>
/// <param name="DriverData">A number of the driver's own choice.</param>
public sealed record VirtioMatchId(uint Device, uint Vendor = VirtioMatchId.Any, ulong DriverData = 0) : DeviceId(DriverData)
{
    /// <summary>Stands for any device type, or any vendor (Linux: VIRTIO_DEV_ANY_ID).</summary>
    public const uint Any = uint.MaxValue;

    internal bool Covers(IVirtioIdentity device) =>
        (Device == Any || Device == device.VirtioType) && (Vendor == Any || Vendor == device.VendorId);

    internal string ToAlias() => $"virtio:d{Part(Device)}v{Part(Vendor)}";

    private static string Part(uint value) => value == Any ? "*" : value.ToString("X8");
}
