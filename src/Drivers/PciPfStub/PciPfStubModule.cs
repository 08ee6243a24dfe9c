using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.PciPfStub;

[assembly: FabricModule("pci_pf_stub", typeof(PciPfStubModule), Description = "Holds a PCI physical function, so that its virtual functions can be enabled")]

namespace Virtbus.Drivers.PciPfStub;

/// <summary>Registers the driver.</summary>
public sealed class PciPfStubModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context)
    {
        ArgumentNullException.ThrowIfNull(context);
        return context.RegisterDriverAsync(new PciPfStubDriver(context.Fabric.GetBus<PciBus>()));
    }
}
