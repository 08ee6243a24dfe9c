using Microsoft.Extensions.Logging;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.VirtioAdmin;
using Virtbus.Platform;

namespace Virtbus.Drivers.VirtioVfioPci;

/// <summary>
/// Binds network devices and disks of virtio when asked to (Linux: virtio-vfio-pci). What a user gets is found at probe, from what the virtual function is and
/// its physical one can do; where that can do nothing, or is not there, it is the function as it is.
/// </summary>
[PciDeviceTable(Vendor, NetDevice, isOverrideOnly: true)]
[PciDeviceTable(Vendor, BlockDevice, isOverrideOnly: true)]
internal sealed class VirtioVfioPciDriver(PciBus bus, ILogger log) : PciDriver(bus, "virtio-vfio-pci")
{
    internal const ushort Vendor = 0x1AF4;
    internal const ushort NetDevice = 0x1041;
    internal const ushort BlockDevice = 0x1042;

    /// <inheritdoc/>
    public override bool IsDmaManagedByUser => true;

    /// <inheritdoc/>
    protected override IReadOnlyList<AttributeGroup> DeviceAttributeGroups { get; } =
        [new(new ObjectAttribute<PciDevice>("virtio_vfio_ops", static d => d.GetDriverData<VirtioVfioFunction>()?.Ops ?? ""))];

    /// <inheritdoc/>
    protected override async ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
    {
        // An override forces the driver on anything; what it adds is for these devices.
        if (!IdTable.Concat(DynamicIds).Any(entry => entry.Covers(device)))
        {
            throw new VirtbusException(
                Errno.EINVAL, $"Device {device.Name} is no virtio network device or disk. Set driver_override to 'vfio-pci' to hand it out as it is.");
        }

        var migrates = VirtioPciAdmin.HasDeviceParts(device);
        // One that has a BAR 0 has no room for ports there.
        var function = device.DeviceId == NetDevice && device.GetRegion(0).Bar.Size == 0 && VirtioPciAdmin.HasLegacyIo(device)
            ? new VirtioLegacyFunction(device, migrates)
            : new VirtioVfioFunction(device, migrates);
        await function.RegisterAsync();
        device.SetDriverData(function);
        VirtioVfioLog.Bound(log, device.Name, function.Ops);
    }

    /// <inheritdoc/>
    protected override ValueTask RemoveAsync(PciDevice device) => device.GetDriverData<VirtioVfioFunction>()!.UnregisterAsync();

    /// <inheritdoc/>
    protected override ValueTask ResetDoneAsync(PciDevice device)
    {
        device.GetDriverData<VirtioVfioFunction>()?.ResetDone();
        return default;
    }
}
