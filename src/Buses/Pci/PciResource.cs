using Virtbus.Pci;

namespace Virtbus.Buses.Pci;

/// <summary>A range that a function decodes, as its registers told when they were sized, and where the bus put it.</summary>
/// <param name="Kind">What it is.</param>
/// <param name="Size">Bytes; 0 when it is not there.</param>
/// <param name="IsPrefetchable">As the register says.</param>
/// <param name="Start">Its address; 0 when none was assigned.</param>
internal readonly record struct PciResource(PciBarKind Kind, ulong Size, bool IsPrefetchable, ulong Start)
{
    private const uint Io = 0x100;
    private const uint Memory = 0x200;
    private const uint Prefetch = 0x2000;
    private const uint ReadOnly = 0x4000;
    private const uint SizeAligned = 0x40000;
    private const uint Wide = 0x100000;
    private const uint Unset = 0x20000000;

    public bool IsThere => Size > 0;

    public bool IsAssigned => Start != 0;

    /// <summary>The window of a bridge that it belongs into.</summary>
    public WindowKind Window => Kind switch
    {
        PciBarKind.Io => WindowKind.Io,
        PciBarKind.Memory64 when IsPrefetchable => WindowKind.Prefetchable,
        _ => WindowKind.Memory,
    };

    /// <summary>The flags that Linux shows in <c>resource</c>: those of the register below those of the resource.</summary>
    public uint Flags => !IsThere ? 0 : (IsAssigned ? 0 : Unset) | SizeAligned | Kind switch
    {
        PciBarKind.Io => Io | 1,
        PciBarKind.Rom => Memory | ReadOnly | Prefetch,
        PciBarKind.Memory64 => Memory | Wide | 4 | (IsPrefetchable ? Prefetch | 8 : 0),
        _ => Memory | (IsPrefetchable ? Prefetch | 8 : 0),
    };

    /// <summary>A line of <c>resource</c>.</summary>
    /// <param name="size">Bytes that the line spans.</param>
    public string ToLine(ulong size) => ToLine(IsThere ? Start : 0, IsThere ? Start + (size - 1) : 0, Flags);

    public static string ToLine(ulong start, ulong last, uint flags) => $"0x{start:x16} 0x{last:x16} 0x{flags:x16}\n";
}

/// <summary>The three windows of a bridge.</summary>
internal enum WindowKind
{
    Io,
    Memory,
    Prefetchable,
}
