namespace Virtbus.Memory.Dma;

/// <summary>A range of I/O addresses; its end may be 2^64.</summary>
/// <param name="Start">First address.</param>
/// <param name="Size">Bytes, above 0.</param>
public readonly record struct IovaRange(Iova Start, ulong Size)
{
    /// <summary>The last address that belongs to it.</summary>
    public ulong Last => Start.Value + (Size - 1);
}
