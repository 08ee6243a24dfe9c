using Virtbus.Memory.Dma;

namespace Virtbus.Buses.Pci;

/// <summary>
/// An IOMMU group of the bus. Functions of one slot share one, as in Linux: between them nothing keeps requests apart. Virtual functions, and
/// what is alone in its slot, have one each.
/// </summary>
internal sealed class PciGroup(PciBus bus)
{
    private IommuGroup? _iommu;
    private int _members;

    public uint Number { get; } = bus.AllocateGroup();

    /// <summary>The group, once something has asked for it.</summary>
    public IommuGroup? IommuOrNull => Volatile.Read(ref _iommu);

    public IommuGroup Iommu => Volatile.Read(ref _iommu) ?? LazyInitializer.EnsureInitialized(ref _iommu, () => new IommuGroup((int)Number))!;

    /// <summary>One device more: the first one, or one beside a member whose slot shows the group still, so that it is not the last that parts.</summary>
    public PciGroup Join()
    {
        Interlocked.Increment(ref _members);
        return this;
    }

    /// <summary>A member is released. With the last one the number is free again.</summary>
    public void Part()
    {
        if (Interlocked.Decrement(ref _members) == 0)
            bus.FreeGroup(Number);
    }
}
