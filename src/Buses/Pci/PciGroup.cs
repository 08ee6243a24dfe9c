using Virtbus.Memory.Dma;

namespace Virtbus.Buses.Pci;

/// <summary>
/// An IOMMU group of the bus. Functions of one slot share one, as in Linux: between them nothing keeps requests apart. Virtual functions, and
/// what is alone in its slot, have one each.
/// </summary>
internal sealed class PciGroup(PciBus bus)
{
    private IommuGroup? _iommu;
    // Under the bus's topology lock.
    private int _members;

    public uint Number { get; } = bus.AllocateGroup();

    /// <summary>The group, once something has asked for it.</summary>
    public IommuGroup? IommuOrNull => Volatile.Read(ref _iommu);

    public IommuGroup Iommu => Volatile.Read(ref _iommu) ?? LazyInitializer.EnsureInitialized(ref _iommu, () => new IommuGroup((int)Number))!;

    /// <summary>One device more. Under the bus's topology lock, but for the first.</summary>
    public PciGroup Join()
    {
        _members++;
        return this;
    }

    /// <summary>A member is released.</summary>
    /// <returns>Whether it was the last one: the number is free again.</returns>
    public bool Part() => --_members == 0;
}
