using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>
/// What a <see cref="FaultyBackend"/> does to requests. Each share is a chance from 0 to 1 that is drawn for each request in the order in which
/// requests come, so that the same seed and the same requests of a channel have the same fate.
/// </summary>
public sealed record FaultPlan
{
    /// <summary>What the draws begin with; each channel takes the next number after it.</summary>
    public int Seed { get; init; }

    /// <summary>Share of requests that fail without an effect.</summary>
    public double Fail { get; init; }

    /// <summary>What those answer, one of them drawn each time; EIO alone when empty.</summary>
    public IReadOnlyList<Errno> Errors { get; init; } = [Errno.EIO];

    /// <summary>Share of writes of which only a beginning of whole blocks is stored, and that answer EIO; and of reads that fill only a beginning.</summary>
    public double Tear { get; init; }

    /// <summary>Share of requests that are kept back, while others overtake them.</summary>
    public double Delay { get; init; }

    /// <summary>For how many looks at the channel (<see cref="IBlockChannel.TryReap"/>) one is kept back at most.</summary>
    public int LongestDelay { get; init; } = 8;

    /// <summary>Whether what is done comes back in a drawn order, and not in that in which it came.</summary>
    public bool Reorder { get; init; }

    /// <summary>Which requests are meant; all when null. Asked on the channel's thread.</summary>
    public Func<BlockRequest, bool>? Where { get; init; }
}
