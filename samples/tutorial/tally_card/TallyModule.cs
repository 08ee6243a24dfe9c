using Virtbus.Buses.Pci;
using Virtbus.Core;

[assembly: FabricModule("tally_card", typeof(TallyCard.TallyModule), Description = "A PCI card that counts, and its driver")]

namespace TallyCard;

/// <summary>The module's beginning. What is put in through the context goes with the module.</summary>
public sealed class TallyModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        var bus = context.Fabric.GetBus<PciBus>();
        bus.AddProvider(new TallyProvider(), context);
        return context.RegisterDriverAsync(new TallyDriver(bus, context.Name));
    }
}
