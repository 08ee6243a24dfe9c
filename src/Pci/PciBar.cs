namespace Virtbus.Pci;

/// <summary>What lies behind a base address register. It does not change during a function's life.</summary>
/// <param name="Kind">What it decodes.</param>
/// <param name="Size">Bytes, a power of two; 0 when it is not there.</param>
/// <param name="IsPrefetchable">Whether reads have no side effect and writes may be merged.</param>
public readonly record struct PciBar(PciBarKind Kind, ulong Size, bool IsPrefetchable = false)
{
    /// <summary>Number of base address registers, the ROM's included.</summary>
    public const int Count = 7;

    /// <summary>Index of the expansion ROM.</summary>
    public const int Rom = 6;
}
