using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.VfioPci;

[assembly: FabricModule("vfio_pci", typeof(VfioPciModule), Description = "Hands any PCI function to a user over VFIO")]

namespace Virtbus.Drivers.VfioPci;

/// <summary>Registers the generic driver.</summary>
public sealed class VfioPciModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        return context.RegisterDriverAsync(new VfioPciDriver(context.Fabric.GetBus<PciBus>()));
    }
}
