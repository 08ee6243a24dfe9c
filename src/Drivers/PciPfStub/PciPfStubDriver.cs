using Virtbus.Buses.Pci;

namespace Virtbus.Drivers.PciPfStub;

/// <summary>
/// Holds a physical function for the sake of its virtual ones alone, and does nothing with it: for hardware whose virtual functions need nobody to set
/// them up. It has no table of ids: it binds only where somebody asks for it by driver_override or a dynamic id.
/// </summary>
internal sealed class PciPfStubDriver(PciBus bus) : PciDriver(bus, "pci-pf-stub")
{
    /// <inheritdoc/>
    public override Func<PciDevice, int, ValueTask>? ConfigureVirtualFunctions => static (device, count) =>
        device.GetDriverData<VirtualFunctionProvider>() is { } functions ? functions.SetNumberAsync(count) : device.SetVirtualFunctionsAsync(count);

    /// <inheritdoc/>
    protected override ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
    {
        device.Resources.AddAction(() => device.VirtualFunctions.Count > 0 ? device.SetVirtualFunctionsAsync(0) : default);
        if (device.TotalVirtualFunctions == 0)
            return default;
        var functions = device.Resources.Add(new VirtualFunctionProvider(device));
        device.SetDriverData(functions);
        functions.Start();
        return default;
    }
}
