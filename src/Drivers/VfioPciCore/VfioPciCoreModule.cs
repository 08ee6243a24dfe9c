using Virtbus.Core;
using Virtbus.Drivers.VfioPci;

[assembly: FabricModule("vfio_pci_core", typeof(VfioPciCoreModule), Description = "Tool box of the drivers that hand PCI functions to users over VFIO")]

namespace Virtbus.Drivers.VfioPci;

/// <summary>The tool box has no driver of its own (VP-03): other modules bring it in by referring to it.</summary>
public sealed class VfioPciCoreModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context) => default;
}
