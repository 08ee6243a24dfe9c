namespace Virtbus.Subsystems.Vfio;

/// <summary>Who has devices open: the owner of their DMA. Told apart by reference; one user may own several devices, and several of one IOMMU group.</summary>
/// <param name="name">The user's name for messages.</param>
public sealed class VfioOwner(string name)
{
    /// <summary>The user's name for messages.</summary>
    public string Name { get; } = name ?? throw new ArgumentNullException(nameof(name));
}
