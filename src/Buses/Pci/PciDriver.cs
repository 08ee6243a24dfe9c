using Virtbus.Core;

namespace Virtbus.Buses.Pci;

/// <summary>A driver of PCI functions. Its id table stands on the class as <see cref="PciDeviceTableAttribute"/>s.</summary>
public abstract class PciDriver : TypedDriver<PciDevice, PciDeviceId>
{
    /// <summary>Makes the driver.</summary>
    /// <param name="bus">The bus.</param>
    /// <param name="name">The driver's name, usually the module's.</param>
    protected PciDriver(PciBus bus, string name)
        : base(name) => Bus = bus;

    /// <inheritdoc/>
    public sealed override Bus Bus { get; }

    /// <summary>
    /// Whether the driver lets no DMA of the host happen and leaves the ownership to a user (Linux: driver_managed_dma). Binding then claims
    /// nothing, and <see cref="Memory.Dma.IommuGroup.TryAllocate"/> refuses.
    /// </summary>
    public virtual bool IsDmaManagedByUser => false;

    /// <summary>Enables this many virtual functions when somebody writes sriov_numvfs; null when the driver does not do that (ENOENT).</summary>
    public virtual Func<PciDevice, int, ValueTask>? ConfigureVirtualFunctions => null;

    /// <summary>Before a reset that somebody asked for by the reset attribute.</summary>
    /// <param name="device">The device.</param>
    protected internal virtual ValueTask PrepareResetAsync(PciDevice device) => default;

    /// <summary>After such a reset.</summary>
    /// <param name="device">The device.</param>
    protected internal virtual ValueTask ResetDoneAsync(PciDevice device) => default;
}
