using Virtbus.Core;
using Virtbus.Drivers.NicRings;

[assembly: FabricModule("nic_rings", typeof(NicRingsModule), Description = "Tool box of core drivers whose adapters have command, event and descriptor rings")]

namespace Virtbus.Drivers.NicRings;

/// <summary>The tool box has no driver of its own: the core drivers of the makes bring it in by referring to it.</summary>
public sealed class NicRingsModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context) => default;
}
