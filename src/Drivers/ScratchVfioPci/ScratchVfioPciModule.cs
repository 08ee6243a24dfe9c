using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.ScratchVfioPci;

[assembly: FabricModule("scratch_vfio_pci", typeof(ScratchVfioPciModule), Description = "Hands scratch functions to a user over VFIO, without what they know of users before")]

namespace Virtbus.Drivers.ScratchVfioPci;

/// <summary>Registers the driver.</summary>
public sealed class ScratchVfioPciModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        return context.RegisterDriverAsync(new ScratchVfioPciDriver(context.Fabric.GetBus<PciBus>()));
    }
}
