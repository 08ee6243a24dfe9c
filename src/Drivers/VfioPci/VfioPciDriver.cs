using Virtbus.Buses.Pci;

namespace Virtbus.Drivers.VfioPci;

/// <summary>
/// The driver for any function that a user shall have: the tool box as it is. It looks at no vendor and no device (VP-04), and binds only where
/// somebody asks for it by driver_override or a dynamic id.
/// </summary>
[PciDeviceTable(isOverrideOnly: true)]
internal sealed class VfioPciDriver(PciBus bus) : PciDriver(bus, "vfio-pci")
{
    /// <inheritdoc/>
    public override bool IsDmaManagedByUser => true;

    /// <inheritdoc/>
    protected override async ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
    {
        var function = new VfioPciFunction(device);
        await function.RegisterAsync();
        device.SetDriverData(function);
    }

    /// <inheritdoc/>
    protected override ValueTask RemoveAsync(PciDevice device) => device.GetDriverData<VfioPciFunction>()!.UnregisterAsync();

    /// <inheritdoc/>
    protected override ValueTask ResetDoneAsync(PciDevice device)
    {
        device.GetDriverData<VfioPciFunction>()?.ResetDone();
        return default;
    }
}
