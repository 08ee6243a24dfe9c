using System.Runtime.CompilerServices;

namespace Virtbus.Memory.Dma;

/// <summary>
/// The ranges whose host memory one request uses, from its look-ups to its end: so that an unmap waits for the requests that need it, and for
/// no others. One thread at a time owns it; <see cref="WaitUntilUnused"/> is for any other.
/// </summary>
/// <remarks>
/// A range is added in the <see cref="DmaSection"/> that looked it up. An unmap first makes it unreachable, then waits for the sections that are
/// under way, then looks here: so it finds each use that may be of the old mapping. A use that is written meanwhile is a later one, which
/// cannot be of what is gone already. Made once and used again for many requests; adding allocates nothing.
/// </remarks>
public sealed class DmaUse
{
    // Beyond that many the last one grows over all that come: an unmap may then wait for a request that it need not wait for.
    private const int MaxRanges = 6;

    private Ranges _ranges;
    private int _count;
    private int _turn;

    /// <summary>Whether nothing is in use.</summary>
    public bool IsEmpty => Volatile.Read(ref _count) == 0;

    /// <summary>Adds a range that was looked up, in the section of that look-up.</summary>
    /// <param name="start">First address.</param>
    /// <param name="length">Bytes, above 0; the range does not wrap.</param>
    public void Add(Iova start, ulong length)
    {
        var count = _count;
        var last = start.Value + (length - 1);
        if (count > 0)
        {
            ref var before = ref _ranges[count - 1];
            // Buffers of one request lie next to each other, more often than not.
            if (start.Value == before.Last + 1 || count == MaxRanges)
            {
                Volatile.Write(ref before.First, Math.Min(before.First, start.Value));
                Volatile.Write(ref before.Last, Math.Max(before.Last, last));
                return;
            }
        }

        _ranges[count].First = start.Value;
        _ranges[count].Last = last;
        Volatile.Write(ref _count, count + 1);
    }

    /// <summary>The request is done, and nothing of it is touched any more.</summary>
    public void End()
    {
        Volatile.Write(ref _count, 0);
        Volatile.Write(ref _turn, _turn + 1);
    }

    /// <summary>
    /// Waits until the request that uses a part of a range is done; without one it returns at once. The range has to be unreachable already, as
    /// it is in a handler of <see cref="DmaPort.SetChangeCallback"/>. Not on the thread that owns the use.
    /// </summary>
    /// <param name="change">What was taken away.</param>
    public void WaitUntilUnused(in DmaChange change)
    {
        var turn = Volatile.Read(ref _turn);
        if (!Uses(change))
            return;
        var spinner = default(SpinWait);
        while (Volatile.Read(ref _turn) == turn)
            spinner.SpinOnce(sleep1Threshold: 50);
    }

    /// <summary>Whether a part of what was taken away is in use.</summary>
    /// <param name="change">What was taken away.</param>
    /// <remarks>Half of what is read may be of the next request already. That makes an overlap at most that is none, of a turn that is over.</remarks>
    internal bool Uses(in DmaChange change)
    {
        var count = Volatile.Read(ref _count);
        for (var i = 0; i < count; i++)
        {
            var first = Volatile.Read(ref _ranges[i].First);
            var last = Volatile.Read(ref _ranges[i].Last);
            if (last >= first && change.Takes(new IovaRange(new Iova(first), last - first + 1)))
                return true;
        }

        return false;
    }

    private struct Range
    {
        public ulong First;
        public ulong Last;
    }

    [InlineArray(MaxRanges)]
    private struct Ranges
    {
        private Range _first;
    }
}
