using Virtbus.Core;

namespace Virtbus.Drivers.NicRings;

/// <summary>A core module's id allocators: ids are unique over all adapters that the module drives.</summary>
public sealed class NicPartIds
{
    /// <summary>Ids of network parts.</summary>
    public IdAllocator Net { get; } = new();

    /// <summary>Ids of vDPA parts.</summary>
    public IdAllocator Vdpa { get; } = new();

    /// <summary>Ids of migration parts.</summary>
    public IdAllocator Migration { get; } = new();
}
