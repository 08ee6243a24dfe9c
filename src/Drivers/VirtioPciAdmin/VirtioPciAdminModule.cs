using Virtbus.Core;
using Virtbus.Drivers.VirtioAdmin;

[assembly: FabricModule("virtio_pci_admin", typeof(VirtioPciAdminModule), Description = "Administration commands for virtual functions, which the driver of the physical one executes")]

namespace Virtbus.Drivers.VirtioAdmin;

/// <summary>A contract has no driver of its own: <c>virtio_pci</c> and who asks it bring it in by referring to it, and its types are the same for all.</summary>
public sealed class VirtioPciAdminModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context) => default;
}
