using Virtbus.Buses.Auxiliary;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.Nic;
using Virtbus.Platform;

namespace Virtbus.Drivers.MerlinVfioPci;

/// <summary>
/// The half on the virtual bus: binds the migration channel of a physical function. Its id is not in the module's aliases, so that an adapter
/// without such users loads nothing.
/// </summary>
internal sealed class MerlinChannelDriver(AuxiliaryBus bus, MerlinPairs pairs)
    : AuxiliaryDriver<NicPart>(bus, "merlin_vfio_pci", null, new AuxiliaryDeviceId("merlin_core.vfmig"))
{
    /// <inheritdoc/>
    protected override ValueTask ProbeAsync(NicPart device, AuxiliaryDeviceId id, CancellationToken cancellationToken) =>
        pairs.AddAsync(PhysicalFunctionOf(device), device.Require<INicMigration>());

    /// <inheritdoc/>
    protected override ValueTask RemoveAsync(NicPart device) => pairs.RemoveAsync(PhysicalFunctionOf(device), device.IsGone);

    private static PciDevice PhysicalFunctionOf(NicPart device)
    {
        for (var above = device.Parent; above is not null; above = above.Parent)
        {
            if (above is PciDevice function)
                return function;
        }
        throw new VirtbusException(Errno.ENODEV, $"Part {device.Name} hangs below no PCI function.");
    }
}
