using Microsoft.Extensions.Logging;
using Virtbus.Buses.Auxiliary;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.MerlinVfioPci;

[assembly: FabricModule("merlin_vfio_pci", typeof(MerlinVfioPciModule), Description = "Hands virtual functions of merlin adapters to a user over VFIO, with migration")]

namespace Virtbus.Drivers.MerlinVfioPci;

/// <summary>Registers both halves of the driver: the one on the PCI bus and the one on the virtual bus (DM-14).</summary>
public sealed class MerlinVfioPciModule : IFabricModule
{
    /// <inheritdoc/>
    public async ValueTask InitAsync(ModuleContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        var pairs = new MerlinPairs(context.Log);
        await context.RegisterDriverAsync(new MerlinChannelDriver(context.Fabric.GetBus<AuxiliaryBus>(), pairs));
        await context.RegisterDriverAsync(new MerlinVfioPciDriver(context.Fabric.GetBus<PciBus>(), pairs));
    }
}
