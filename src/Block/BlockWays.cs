namespace Virtbus.Block;

/// <summary>Which ways the requests of a channel went since it was opened.</summary>
/// <param name="InPlace">Done on the caller's thread.</param>
/// <param name="Uring">Done by the kernel through io_uring.</param>
/// <param name="Worker">Done by a thread that may wait.</param>
public readonly record struct BlockWays(ulong InPlace, ulong Uring, ulong Worker)
{
    /// <summary>Adds two up.</summary>
    public static BlockWays operator +(BlockWays left, BlockWays right) =>
        new(left.InPlace + right.InPlace, left.Uring + right.Uring, left.Worker + right.Worker);
}
