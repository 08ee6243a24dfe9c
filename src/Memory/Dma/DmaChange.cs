namespace Virtbus.Memory.Dma;

/// <summary>What changed of what a port reaches.</summary>
/// <param name="Kind">In which way.</param>
/// <param name="Range">Where, for <see cref="DmaChangeKind.Mapped"/> and <see cref="DmaChangeKind.Unmapped"/>; else of no meaning.</param>
public readonly record struct DmaChange(DmaChangeKind Kind, IovaRange Range)
{
    internal static DmaChange Everything { get; } = new(DmaChangeKind.Everything, default);

    /// <summary>Whether a range that was reachable before the change may be gone, or lead elsewhere.</summary>
    /// <param name="range">The range.</param>
    public bool Takes(IovaRange range) => Kind switch
    {
        DmaChangeKind.Everything => true,
        DmaChangeKind.Unmapped => range.Start.Value <= Range.Last && Range.Start.Value <= range.Last,
        _ => false,
    };
}
