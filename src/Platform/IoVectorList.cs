using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Virtbus.Platform;

/// <summary>
/// A list of runs of host memory at an address that does not change, so that the kernel can read the list in place while a request is on its
/// way. It holds nothing alive: who makes one says for how long both the list and the memory that it names stay.
/// </summary>
public readonly unsafe struct IoVectorList
{
    private readonly IoVector* _first;

    private IoVectorList(IoVector* first, int count)
    {
        _first = first;
        Count = count;
    }

    /// <summary>How many runs.</summary>
    public int Count { get; }

    /// <summary>Names runs that lie in a pinned array (<see cref="GC.AllocateArray{T}(int, bool)"/>).</summary>
    /// <param name="pinned">The runs; the array stays referenced for as long as the list is used.</param>
    /// <returns>The list.</returns>
    public static IoVectorList OfPinned(ReadOnlySpan<IoVector> pinned)
    {
        // SAFETY: the caller says that the array is pinned and kept, so the address outlives this call.
        return new IoVectorList((IoVector*)Unsafe.AsPointer(ref MemoryMarshal.GetReference(pinned)), pinned.Length);
    }

    /// <summary>The runs.</summary>
    /// <returns>A view that is valid as long as the list.</returns>
    public ReadOnlySpan<IoVector> AsSpan()
    {
        // SAFETY: count runs lie behind the address for as long as the maker of the list said.
        return new ReadOnlySpan<IoVector>(_first, Count);
    }

    /// <summary>The list without its first runs, and of the rest no more than a number.</summary>
    /// <param name="start">How many to leave out, at most <see cref="Count"/>.</param>
    /// <param name="most">How many to keep at most.</param>
    /// <returns>The shorter list.</returns>
    public IoVectorList Slice(int start, int most = int.MaxValue)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)start, (uint)Count, nameof(start));
        // SAFETY: the start was checked against the count.
        return new IoVectorList(_first + start, Math.Min(Count - start, most));
    }

    internal IoVector* First => _first;
}
