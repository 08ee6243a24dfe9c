using Virtbus.Buses.Pci;
using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Drivers.VirtioPci;

[assembly: FabricModule("virtio_pci", typeof(VirtioPciModule), Description = "Virtio devices on PCI, modern and transitional")]

namespace Virtbus.Drivers.VirtioPci;

/// <summary>Registers the transport driver.</summary>
public sealed class VirtioPciModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        return context.RegisterDriverAsync(new VirtioPciDriver(context.Fabric.GetBus<PciBus>(), context.Fabric.GetBus<VirtioBus>()));
    }
}
