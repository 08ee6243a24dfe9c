using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Drivers.VirtioNet;

[assembly: FabricModule("virtio_net", typeof(VirtioNetModule), Description = "Network interfaces on the virtio bus")]

namespace Virtbus.Drivers.VirtioNet;

/// <summary>Registers the driver.</summary>
public sealed class VirtioNetModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        return context.RegisterDriverAsync(new VirtioNetDriver(context.Fabric.GetBus<VirtioBus>(), context.Name));
    }
}
