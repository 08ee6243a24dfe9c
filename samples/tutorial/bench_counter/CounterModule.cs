using Virtbus.Buses.Auxiliary;
using Virtbus.Core;

[assembly: FabricModule("bench_counter", typeof(BenchCounter.CounterModule), Description = "A number that can be read and written")]

namespace BenchCounter;

/// <summary>The module's beginning: registers its driver. The driver is unregistered when the module is unloaded.</summary>
public sealed class CounterModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        return context.RegisterDriverAsync(new CounterDriver(context.Fabric.GetBus<AuxiliaryBus>(), context.Name));
    }
}
