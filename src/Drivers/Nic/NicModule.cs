using Virtbus.Core;
using Virtbus.Drivers.Nic;

[assembly: FabricModule("nic", typeof(NicModule), Description = "What core drivers of adapters and the drivers of their parts share")]

namespace Virtbus.Drivers.Nic;

/// <summary>A contract has no driver of its own: core drivers and part drivers bring it in by referring to it, and its types are the same for all.</summary>
public sealed class NicModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context) => default;
}
