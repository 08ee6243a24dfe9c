using Virtbus.Buses.Faux;
using Virtbus.Core;

namespace Virtbus.Drivers.Nic;

/// <summary>What the core drivers of all makes do alike: on probe, make the core and its parts. A make says how its core is made.</summary>
/// <typeparam name="THardware">The make's hardware.</typeparam>
/// <param name="bus">The fabric's faux bus.</param>
/// <param name="name">The driver's name, which is its module's and the first part of its parts' names.</param>
public abstract class NicCoreDriver<THardware>(FauxBus bus, string name) : FauxDriver<THardware>(bus, name)
    where THardware : class
{
    private readonly NicPartIds _ids = new();

    /// <inheritdoc/>
    protected sealed override IReadOnlyList<AttributeGroup> DeviceAttributeGroups => NicCore.DeviceAttributeGroups;

    /// <inheritdoc/>
    protected sealed override async ValueTask ProbeAsync(FauxDevice<THardware> device, FauxDeviceId id, CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(device);
        var core = CreateCore(device);
        device.SetDriverData(core);
        await core.CreatePartsAsync(Name, _ids);
    }

    /// <summary>Makes the core that speaks to an adapter.</summary>
    /// <param name="device">The adapter.</param>
    protected abstract NicCore CreateCore(FauxDevice<THardware> device);
}
