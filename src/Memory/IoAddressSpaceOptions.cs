namespace Virtbus.Memory;

/// <summary>What an I/O address space allows.</summary>
public sealed record IoAddressSpaceOptions
{
    /// <summary>The most that <see cref="MaxMaps"/> can be.</summary>
    public const int MaxMapsLimit = 1 << 20;

    /// <summary>Addresses and sizes of maps are multiples of it: a power of two. 4096 unless said otherwise; 1 takes any.</summary>
    public ulong Granule { get; init; } = 4096;

    /// <summary>The most maps at a time, 1 to <see cref="MaxMapsLimit"/>. 65535 unless said otherwise.</summary>
    public int MaxMaps { get; init; } = 65535;

    /// <summary>The lowest address that can be mapped.</summary>
    public Iova Lowest { get; init; }

    /// <summary>The highest address that can be mapped.</summary>
    public Iova Highest { get; init; } = new(ulong.MaxValue);
}
