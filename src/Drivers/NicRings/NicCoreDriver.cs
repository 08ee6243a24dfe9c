using Virtbus.Buses.Pci;
using Virtbus.Core;

namespace Virtbus.Drivers.NicRings;

/// <summary>
/// What the core drivers of all makes do alike, on physical and virtual functions: on probe, make the core and its parts. A make says how its
/// registers are reached.
/// </summary>
/// <param name="bus">The fabric's PCI bus.</param>
/// <param name="name">The driver's name, which is its module's and the first part of its parts' names.</param>
public abstract class NicCoreDriver(PciBus bus, string name) : PciDriver(bus, name)
{
    private readonly NicPartIds _ids = new();

    /// <inheritdoc/>
    public sealed override Func<PciDevice, int, ValueTask>? ConfigureVirtualFunctions => static (device, count) =>
        device.GetDriverData<NicCore>()?.VirtualFunctions is { } functions ? functions.SetNumberAsync(count) : device.SetVirtualFunctionsAsync(count);

    /// <inheritdoc/>
    protected sealed override IReadOnlyList<AttributeGroup> DeviceAttributeGroups => NicCore.DeviceAttributeGroups;

    /// <inheritdoc/>
    protected sealed override async ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(device);
        var core = device.Resources.Add(NicCore.Start(device, CreateRegisters(device)));
        device.SetDriverData(core);
        device.Resources.AddAction(core.DestroyPartsAsync);
        // Virtual functions go first: their drivers may use the parts.
        device.Resources.AddAction(() => RemoveVirtualFunctionsAsync(device));
        await core.CreatePartsAsync(Name, _ids);
        if (device.TotalVirtualFunctions == 0)
            return;
        core.VirtualFunctions = device.Resources.Add(new NicVirtualFunctions(core, device));
    }

    /// <summary>A reset takes all away that the parts have in the hardware, so they go before it. The virtual functions stay, and are reset with it.</summary>
    /// <inheritdoc/>
    protected sealed override ValueTask PrepareResetAsync(PciDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        return device.GetDriverData<NicCore>() is { } core ? core.PrepareResetAsync() : default;
    }

    /// <inheritdoc/>
    protected sealed override async ValueTask ResetDoneAsync(PciDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        if (device.GetDriverData<NicCore>() is not { } core)
            return;
        core.Restart();
        await core.CreatePartsAsync(Name, _ids);
    }

    /// <summary>Says how the registers of the make are reached.</summary>
    /// <param name="device">The function.</param>
    protected abstract NicRegisters CreateRegisters(PciDevice device);

    private static ValueTask RemoveVirtualFunctionsAsync(PciDevice device) => device.VirtualFunctions.Count > 0 ? device.SetVirtualFunctionsAsync(0) : default;
}
