using Virtbus.Platform;

namespace Virtbus.Drivers.VirtioBlk;

/// <summary>A place in the runs of a request.</summary>
/// <param name="Run">Which run.</param>
/// <param name="Taken">How many bytes of it lie before the place.</param>
internal readonly record struct BlkPlace(int Run, nuint Taken)
{
    /// <summary>What of the runs begins at the place, as far as one run goes.</summary>
    /// <param name="runs">The runs.</param>
    /// <param name="most">The most bytes, above 0.</param>
    /// <param name="next">The place behind it.</param>
    internal IoVector Take(ReadOnlySpan<IoVector> runs, int most, out BlkPlace next)
    {
        var run = runs[Run];
        var left = run.Length - Taken;
        var count = Math.Min(left, (nuint)most);
        // First: the caller may have its place become the next one.
        var part = new IoVector(run.Address + (nint)Taken, count);
        next = count == left ? new BlkPlace(Run + 1, 0) : new BlkPlace(Run, Taken + count);
        return part;
    }
}
