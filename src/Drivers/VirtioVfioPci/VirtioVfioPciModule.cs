using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.VirtioVfioPci;

[assembly: FabricModule("virtio_vfio_pci", typeof(VirtioVfioPciModule), Description = "Hands virtual functions of virtio devices to a user over VFIO, with ports for old drivers and migration where the physical function can do that")]

namespace Virtbus.Drivers.VirtioVfioPci;

/// <summary>Registers the driver.</summary>
public sealed class VirtioVfioPciModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        return context.RegisterDriverAsync(new VirtioVfioPciDriver(context.Fabric.GetBus<PciBus>(), context.Log));
    }
}
