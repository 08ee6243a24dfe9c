using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Drivers.VirtioRng;

[assembly: FabricModule("virtio_rng", typeof(VirtioRngModule), Description = "Entropy sources on the virtio bus")]

namespace Virtbus.Drivers.VirtioRng;

/// <summary>Registers the driver.</summary>
public sealed class VirtioRngModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        return context.RegisterDriverAsync(new VirtioRngDriver(context.Fabric.GetBus<VirtioBus>(), context.Name));
    }
}
