using Virtbus.Platform;

namespace Virtbus.Memory.Dma;

/// <summary>A bitmap of the pages that devices wrote to. Marking is lock-free; reading clears what it read.</summary>
public sealed class DirtyLog
{
    private DirtyLog()
    {
    }

    /// <summary>Bytes that one bit stands for.</summary>
    public ulong PageSize => throw new NotSupportedException();

    /// <summary>Makes a log.</summary>
    /// <param name="pageSize">Bytes that one bit stands for: a power of two of at least 4096.</param>
    /// <param name="ranges">What is logged; none for every address.</param>
    /// <param name="log">The log.</param>
    /// <param name="fault">EINVAL: page size, alignment or overlap; E2BIG: more than 256 ranges; EOVERFLOW: a range wraps.</param>
    public static bool TryCreate(ulong pageSize, ReadOnlySpan<IovaRange> ranges, out DirtyLog? log, out Fault fault) => throw new NotSupportedException();

    /// <summary>Marks the pages of an access.</summary>
    /// <param name="address">First byte.</param>
    /// <param name="length">Bytes.</param>
    public void Mark(Iova address, ulong length) => throw new NotSupportedException();

    /// <summary>Sets the bits of the pages that were marked, and clears the marks.</summary>
    /// <param name="range">What is asked for, in whole pages.</param>
    /// <param name="pageSize">Bytes that one bit of the answer stands for: a power of two of at least 4096.</param>
    /// <param name="bitmap">Bit n for page n of the range; bits that are set already stay set.</param>
    /// <param name="fault">EINVAL: page size, alignment, or a bitmap too short.</param>
    public bool TryReadAndClear(IovaRange range, ulong pageSize, Span<ulong> bitmap, out Fault fault) => throw new NotSupportedException();
}
