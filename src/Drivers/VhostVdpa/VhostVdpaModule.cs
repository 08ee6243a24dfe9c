using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Drivers.VhostVdpa;

[assembly: FabricModule("vhost_vdpa", typeof(VhostVdpaModule), Description = "Hands vDPA devices to users outside the fabric")]

namespace Virtbus.Drivers.VhostVdpa;

/// <summary>Registers the vhost-vdpa driver. The vdpa bus has no aliases, so the module is loaded by name.</summary>
public sealed class VhostVdpaModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        return context.RegisterDriverAsync(new VhostVdpaDriver(context.Fabric.GetBus<VdpaBus>()));
    }
}
