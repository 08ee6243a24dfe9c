using Virtbus.Buses.Pci;
using Virtbus.Platform;

namespace Virtbus.Drivers.MerlinVfioPci;

/// <summary>
/// The half on the PCI bus: binds a virtual function. Its VFIO device appears when the physical function's migration channel is bound too, by
/// <see cref="MerlinChannelDriver"/>, and goes before either does.
/// </summary>
[PciDeviceTable(0x5642, 0x1002, isOverrideOnly: true)]
internal sealed class MerlinVfioPciDriver(PciBus bus, MerlinPairs pairs) : PciDriver(bus, "merlin-vfio-pci")
{
    /// <inheritdoc/>
    public override bool IsDmaManagedByUser => true;

    /// <inheritdoc/>
    protected override async ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
    {
        // An override forces the driver on anything; it migrates by a channel that only these functions have.
        if (device.PhysicalFunction is null || !IdTable[0].Covers(device))
        {
            throw new VirtbusException(
                Errno.EINVAL, $"Device {device.Name} is no virtual function of a merlin adapter. Set driver_override to 'vfio-pci' to hand it out without migration.");
        }
        var function = new MerlinVfioFunction(device);
        try
        {
            await pairs.AddAsync(function);
        }
        catch
        {
            await pairs.RemoveAsync(function);
            throw;
        }
        device.SetDriverData(function);
    }

    /// <inheritdoc/>
    protected override ValueTask RemoveAsync(PciDevice device) => pairs.RemoveAsync(device.GetDriverData<MerlinVfioFunction>()!);

    /// <inheritdoc/>
    protected override ValueTask ResetDoneAsync(PciDevice device)
    {
        device.GetDriverData<MerlinVfioFunction>()?.ResetDone();
        return default;
    }
}
