namespace Virtbus.Buses.Pci;

/// <summary>A range of addresses from which BARs and the windows of bridges below are cut. Guarded by the bus's topology lock.</summary>
internal sealed class AddressWindow(ulong start, ulong last)
{
    // Sorted by start.
    private readonly List<(ulong Start, ulong Last)> _taken = [];

    public ulong Start { get; } = start;

    public ulong Last { get; } = last;

    public bool IsEmpty => _taken.Count == 0;

    /// <summary>Takes the lowest free range.</summary>
    /// <param name="size">Bytes, above 0.</param>
    /// <param name="alignment">A power of two.</param>
    /// <param name="start">Its first address.</param>
    public bool TryAllocate(ulong size, ulong alignment, out ulong start)
    {
        start = 0;
        if (alignment - 1 > Last)
            return false;
        var candidate = Start;
        for (var i = 0; ; i++)
        {
            candidate = (candidate + (alignment - 1)) & ~(alignment - 1);
            var free = i < _taken.Count ? _taken[i].Start : Last + 1;
            if (candidate < free && free - candidate >= size)
            {
                _taken.Insert(i, (candidate, candidate + (size - 1)));
                start = candidate;
                return true;
            }
            if (i == _taken.Count)
                return false;
            candidate = Math.Max(candidate, _taken[i].Last + 1);
        }
    }

    /// <summary>Gives a range back.</summary>
    /// <param name="start">Its first address.</param>
    public void Free(ulong start)
    {
        var at = _taken.FindIndex(t => t.Start == start);
        if (at >= 0)
            _taken.RemoveAt(at);
    }
}
