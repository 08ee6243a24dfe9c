using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Drivers.NicVdpa;

[assembly: FabricModule("nic_vdpa", typeof(NicVdpaModule), Description = "vDPA devices on adapters of any make")]

namespace Virtbus.Drivers.NicVdpa;

/// <summary>Registers the vDPA part driver.</summary>
public sealed class NicVdpaModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        return context.RegisterDriverAsync(new NicVdpaDriver(context.Fabric.GetBus<AuxiliaryBus>(), context.Name));
    }
}
