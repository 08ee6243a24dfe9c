using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.MerlinCore;

[assembly: FabricModule("merlin_core", typeof(MerlinCoreModule), Description = "Core driver of merlin adapters")]

namespace Virtbus.Drivers.MerlinCore;

/// <summary>Registers the core driver of merlin adapters.</summary>
public sealed class MerlinCoreModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        return context.RegisterDriverAsync(new MerlinCoreDriver(context.Fabric.GetBus<PciBus>(), context.Name));
    }
}
