using Virtbus.Buses.Pci;
using Virtbus.Drivers.VfioPci;

namespace Virtbus.Drivers.ScratchVfioPci;

/// <summary>The smallest useful variant: the tool box with one callback wrapped. Binds scratch functions, physical and virtual, when asked to.</summary>
[PciDeviceTable(0x5642, 0x00ED, isOverrideOnly: true)]
[PciDeviceTable(0x5642, 0x00EE, isOverrideOnly: true)]
internal sealed class ScratchVfioPciDriver(PciBus bus) : PciDriver(bus, "scratch-vfio-pci")
{
    /// <inheritdoc/>
    public override bool IsDmaManagedByUser => true;

    /// <inheritdoc/>
    protected override async ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
    {
        var function = new ScratchVfioFunction(device);
        await function.RegisterAsync();
        device.SetDriverData(function);
    }

    /// <inheritdoc/>
    protected override ValueTask RemoveAsync(PciDevice device) => device.GetDriverData<ScratchVfioFunction>()!.UnregisterAsync();
}
