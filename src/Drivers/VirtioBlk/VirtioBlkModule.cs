using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Drivers.VirtioBlk;

[assembly: FabricModule("virtio_blk", typeof(VirtioBlkModule), Description = "Disks on the virtio bus")]

namespace Virtbus.Drivers.VirtioBlk;

/// <summary>Registers the driver.</summary>
public sealed class VirtioBlkModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        return context.RegisterDriverAsync(new VirtioBlkDriver(context.Fabric.GetBus<VirtioBus>(), context.Name));
    }
}
