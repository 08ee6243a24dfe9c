namespace Virtbus.Memory.Dma;

/// <summary>
/// The mappings of a space by rising address, for what asks for order: overlap, ranges, gaps. Small sorted blocks under a sorted list of
/// blocks, so a change moves little, however many there are. Used under the space's lock.
/// </summary>
internal sealed class MappingIndex
{
    private const int BlockSize = 64;
    private readonly List<Block> _blocks = [];

    /// <summary>How many mappings there are.</summary>
    internal int Count { get; private set; }

    /// <summary>The mapping with the highest start that is not above an address, or null.</summary>
    internal IoMapping? AtOrBelow(ulong address)
    {
        var block = BlockOf(address);
        if (block < 0)
            return null;
        var item = _blocks[block].AtOrBelow(address);
        return item < 0 ? null : _blocks[block].Items[item];
    }

    /// <summary>The mapping with the lowest start that is not below an address, or null.</summary>
    internal IoMapping? AtOrAbove(ulong address)
    {
        if (_blocks.Count == 0)
            return null;
        var at = Math.Max(0, BlockOf(address));
        var block = _blocks[at];
        var item = block.AtOrBelow(address);
        if (item >= 0 && block.Starts[item] == address)
            return block.Items[item];
        if (item + 1 < block.Count)
            return block.Items[item + 1];
        return at + 1 < _blocks.Count ? _blocks[at + 1].Items[0] : null;
    }

    /// <summary>Whether any mapping has an address of first to last.</summary>
    internal bool Overlaps(ulong first, ulong last) => AtOrBelow(last) is { } below && below.Last >= first;

    /// <summary>Puts a mapping in that overlaps none.</summary>
    internal void Add(IoMapping mapping)
    {
        Count++;
        if (_blocks.Count == 0)
            _blocks.Add(new Block());
        var at = Math.Max(0, BlockOf(mapping.Start));
        var block = _blocks[at];
        if (block.Count == BlockSize)
        {
            // At the very end a new block begins, so that mappings that come in order fill their blocks.
            var atEnd = at == _blocks.Count - 1 && mapping.Start > block.Starts[^1];
            var upper = atEnd ? new Block() : block.Split();
            _blocks.Insert(at + 1, upper);
            if (atEnd || mapping.Start > upper.Starts[0])
                block = upper;
        }

        block.Insert(block.AtOrBelow(mapping.Start) + 1, mapping);
    }

    /// <summary>Takes a mapping out that is in.</summary>
    internal void Remove(IoMapping mapping)
    {
        var at = BlockOf(mapping.Start);
        var block = _blocks[at];
        block.RemoveAt(block.AtOrBelow(mapping.Start));
        Count--;
        if (block.Count == 0)
            _blocks.RemoveAt(at);
    }

    /// <summary>All of them, by rising address.</summary>
    internal IEnumerable<IoMapping> All()
    {
        foreach (var block in _blocks)
        {
            for (var i = 0; i < block.Count; i++)
                yield return block.Items[i];
        }
    }

    // The last block whose first start is not above the address, or -1.
    private int BlockOf(ulong address)
    {
        int low = 0, high = _blocks.Count - 1;
        while (low <= high)
        {
            var middle = (low + high) >>> 1;
            if (_blocks[middle].Starts[0] <= address)
                low = middle + 1;
            else
                high = middle - 1;
        }

        return high;
    }

    private sealed class Block
    {
        internal ulong[] Starts { get; private set; } = new ulong[4];

        internal IoMapping[] Items { get; private set; } = new IoMapping[4];

        internal int Count { get; private set; }

        internal int AtOrBelow(ulong address)
        {
            var found = Starts.AsSpan(0, Count).BinarySearch(address);
            return found >= 0 ? found : ~found - 1;
        }

        internal void Insert(int at, IoMapping mapping)
        {
            if (Count == Starts.Length)
                Grow(Count * 2);
            Array.Copy(Starts, at, Starts, at + 1, Count - at);
            Array.Copy(Items, at, Items, at + 1, Count - at);
            Starts[at] = mapping.Start;
            Items[at] = mapping;
            Count++;
        }

        internal void RemoveAt(int at)
        {
            Count--;
            Array.Copy(Starts, at + 1, Starts, at, Count - at);
            Array.Copy(Items, at + 1, Items, at, Count - at);
            Items[Count] = null!;
        }

        internal Block Split()
        {
            var upper = new Block();
            var half = Count / 2;
            upper.Grow(Starts.Length);
            Array.Copy(Starts, half, upper.Starts, 0, Count - half);
            Array.Copy(Items, half, upper.Items, 0, Count - half);
            upper.Count = Count - half;
            Array.Clear(Items, half, Count - half);
            Count = half;
            return upper;
        }

        private void Grow(int size)
        {
            var starts = new ulong[size];
            var items = new IoMapping[size];
            Array.Copy(Starts, starts, Count);
            Array.Copy(Items, items, Count);
            Starts = starts;
            Items = items;
        }
    }
}
