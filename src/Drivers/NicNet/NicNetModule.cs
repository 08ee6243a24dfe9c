using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Drivers.NicNet;

[assembly: FabricModule("nic_net", typeof(NicNetModule), Description = "Network interfaces on adapters of any make")]

namespace Virtbus.Drivers.NicNet;

/// <summary>Registers the network part driver.</summary>
public sealed class NicNetModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        return context.RegisterDriverAsync(new NicNetDriver(context.Fabric.GetBus<AuxiliaryBus>(), context.Name));
    }
}
