using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.HarrierCore;

[assembly: FabricModule("harrier_core", typeof(HarrierCoreModule), Description = "Core driver of harrier adapters")]

namespace Virtbus.Drivers.HarrierCore;

/// <summary>Registers the core driver of harrier adapters.</summary>
public sealed class HarrierCoreModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        return context.RegisterDriverAsync(new HarrierCoreDriver(context.Fabric.GetBus<PciBus>(), context.Name));
    }
}
