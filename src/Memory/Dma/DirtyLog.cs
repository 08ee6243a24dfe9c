using System.Collections.Concurrent;
using System.Numerics;
using Virtbus.Platform;

namespace Virtbus.Memory.Dma;

/// <summary>A bitmap of the pages that devices wrote to. Marking is lock-free; reading clears what it read.</summary>
/// <remarks>It takes memory only near what was written, 512 bytes for 4096 pages; so a log may be for every address.</remarks>
public sealed class DirtyLog
{
    /// <summary>The most ranges: a page of them, as the kernel takes.</summary>
    public const int MaxRanges = 256;

    /// <summary>The smallest page.</summary>
    public const ulong MinPageSize = 4096;

    private const int BlockShift = 12;
    private const ulong BlockPages = 1 << BlockShift;
    private const int WordsInBlock = (int)BlockPages / 64;

    private readonly int _shift;
    private readonly IovaRange[] _ranges;
    private readonly ConcurrentDictionary<ulong, Block> _blocks = new();
    private Block? _last;

    private DirtyLog(ulong pageSize, IovaRange[] sorted)
    {
        _shift = BitOperations.Log2(pageSize);
        _ranges = sorted;
    }

    /// <summary>Bytes that one bit stands for.</summary>
    public ulong PageSize => 1UL << _shift;

    /// <summary>Makes a log.</summary>
    /// <param name="pageSize">Bytes that one bit stands for: a power of two of at least 4096.</param>
    /// <param name="ranges">What is logged; none for every address.</param>
    /// <param name="log">The log.</param>
    /// <param name="fault">EINVAL: page size, alignment, an empty range or overlap; E2BIG: more than 256 ranges; EOVERFLOW: a range wraps.</param>
    /// <returns>Whether it is made.</returns>
    public static bool TryCreate(ulong pageSize, ReadOnlySpan<IovaRange> ranges, out DirtyLog? log, out Fault fault)
    {
        log = null;
        if (ranges.Length > MaxRanges)
        {
            fault = new Fault(Errno.E2BIG, "a log has at most 256 ranges");
            return false;
        }

        if (!IsPageSize(pageSize, out fault))
            return false;
        foreach (var range in ranges)
        {
            if (!IsWhole(range, pageSize, out fault))
                return false;
        }

        var sorted = ranges.ToArray();
        Array.Sort(sorted, (left, right) => left.Start.Value.CompareTo(right.Start.Value));
        for (var i = 1; i < sorted.Length; i++)
        {
            if (sorted[i].Start.Value <= sorted[i - 1].Last)
            {
                fault = new Fault(Errno.EINVAL, "two ranges of the log overlap");
                return false;
            }
        }

        log = new DirtyLog(pageSize, sorted);
        return true;
    }

    /// <summary>Marks the pages of an access, as far as they are logged.</summary>
    /// <param name="address">First byte.</param>
    /// <param name="length">Bytes; what lies beyond 2^64 does not count.</param>
    public void Mark(Iova address, ulong length)
    {
        if (length == 0)
            return;
        var first = address.Value;
        var last = length - 1 > ulong.MaxValue - first ? ulong.MaxValue : first + (length - 1);
        if (_ranges.Length == 0)
        {
            MarkPages(first >> _shift, last >> _shift);
            return;
        }

        for (var i = FirstRangeEndingAtOrAbove(first); i < _ranges.Length && _ranges[i].Start.Value <= last; i++)
            MarkPages(Math.Max(first, _ranges[i].Start.Value) >> _shift, Math.Min(last, _ranges[i].Last) >> _shift);
    }

    /// <summary>Whether a log can be asked for a range, by the rules of <see cref="TryReadAndClear"/>.</summary>
    /// <param name="range">What would be asked for.</param>
    /// <param name="pageSize">Bytes that one bit of the answer stands for.</param>
    /// <param name="fault">EINVAL, EOVERFLOW, as there.</param>
    public static bool CanRead(IovaRange range, ulong pageSize, out Fault fault) => IsPageSize(pageSize, out fault) && IsWhole(range, pageSize, out fault);

    /// <summary>Sets the bits of the pages that were marked, and clears the marks. A call that is refused clears none.</summary>
    /// <param name="range">What is asked for, in whole pages.</param>
    /// <param name="pageSize">Bytes that one bit of the answer stands for: a power of two of at least 4096.</param>
    /// <param name="bitmap">
    /// Bit n for page n of the range; bits that are set already stay set. Where the log's page is larger than the range, its mark stays,
    /// since it stands for others too.
    /// </param>
    /// <param name="fault">EINVAL: page size, alignment, an empty range, or a bitmap too short; EOVERFLOW: the range wraps.</param>
    /// <returns>Whether it was read.</returns>
    public bool TryReadAndClear(IovaRange range, ulong pageSize, Span<ulong> bitmap, out Fault fault)
    {
        if (!CanRead(range, pageSize, out fault))
            return false;
        var shift = BitOperations.Log2(pageSize);
        if (((range.Size >> shift) + 63) / 64 > (ulong)bitmap.Length)
        {
            fault = new Fault(Errno.EINVAL, "the bitmap is too short for the range");
            return false;
        }

        var first = range.Start.Value >> _shift;
        var last = range.Last >> _shift;
        var firstBlock = first >> BlockShift;
        var lastBlock = last >> BlockShift;
        // Sparse: whichever are fewer, the blocks of the range or those that there are.
        if (lastBlock - firstBlock >= (ulong)_blocks.Count)
        {
            foreach (var (number, block) in _blocks)
            {
                if (number >= firstBlock && number <= lastBlock)
                    Collect(block, range, shift, bitmap);
            }
        }
        else
        {
            for (ulong i = 0; i <= lastBlock - firstBlock; i++)
            {
                if (_blocks.TryGetValue(firstBlock + i, out var block))
                    Collect(block, range, shift, bitmap);
            }
        }

        return true;
    }

    private static bool IsPageSize(ulong pageSize, out Fault fault)
    {
        fault = pageSize >= MinPageSize && ulong.IsPow2(pageSize) ? Fault.None : new Fault(Errno.EINVAL, "the page size is no power of two of at least 4096");
        return fault.Errno == Errno.None;
    }

    private static bool IsWhole(IovaRange range, ulong pageSize, out Fault fault)
    {
        fault = Fault.None;
        if (range.Size == 0 || ((range.Start.Value | range.Size) & (pageSize - 1)) != 0)
            fault = new Fault(Errno.EINVAL, "a range is empty or not in whole pages");
        else if (range.Size - 1 > ulong.MaxValue - range.Start.Value)
            fault = new Fault(Errno.EOVERFLOW, "a range wraps around the end of the address space");
        return fault.Errno == Errno.None;
    }

    // Bits from one to another of word number 'word' of a bitmap; none when they lie elsewhere.
    private static ulong Bits(ulong word, ulong first, ulong last)
    {
        var low = Math.Max(first, word * 64);
        var high = Math.Min(last, (word * 64) + 63);
        return low > high ? 0 : (ulong.MaxValue << (int)(low & 63)) & (ulong.MaxValue >> (int)(63 - (high & 63)));
    }

    private int FirstRangeEndingAtOrAbove(ulong address)
    {
        int low = 0, high = _ranges.Length - 1;
        while (low <= high)
        {
            var middle = (low + high) >>> 1;
            if (_ranges[middle].Last < address)
                low = middle + 1;
            else
                high = middle - 1;
        }

        return low;
    }

    private void MarkPages(ulong first, ulong last)
    {
        for (var page = first; ;)
        {
            var number = page >> BlockShift;
            var lastOfBlock = Math.Min(last, (number << BlockShift) | (BlockPages - 1));
            var words = BlockFor(number).Words;
            var from = page & (BlockPages - 1);
            var to = lastOfBlock & (BlockPages - 1);
            // Always the interlocked one, though the bit may be set: it keeps the written bytes before a bit that a reader clears next.
            for (var word = from / 64; word <= to / 64; word++)
                Interlocked.Or(ref words[word], Bits(word, from, to));
            if (lastOfBlock == last)
                return;
            page = lastOfBlock + 1;
        }
    }

    private Block BlockFor(ulong number)
    {
        if (Volatile.Read(ref _last) is { } last && last.Number == number)
            return last;
        var block = _blocks.GetOrAdd(number, static key => new Block(key));
        Volatile.Write(ref _last, block);
        return block;
    }

    private void Collect(Block block, IovaRange range, int shift, Span<ulong> bitmap)
    {
        var firstPage = block.Number << BlockShift;
        var from = Math.Max(firstPage, range.Start.Value >> _shift) - firstPage;
        var to = Math.Min(firstPage | (BlockPages - 1), range.Last >> _shift) - firstPage;
        // A page of the log that lies only partly in the range stands for its other part too.
        var keepFirst = (range.Start.Value & (PageSize - 1)) != 0;
        var keepLast = (range.Last & (PageSize - 1)) != PageSize - 1;
        for (var word = from / 64; word <= to / 64; word++)
        {
            ref var bits = ref block.Words[word];
            if (Volatile.Read(ref bits) == 0)
                continue;
            var mask = Bits(word, from, to);
            var cleared = mask;
            if (keepFirst)
                cleared &= ~Bits(word, (range.Start.Value >> _shift) - firstPage, (range.Start.Value >> _shift) - firstPage);
            if (keepLast)
                cleared &= ~Bits(word, (range.Last >> _shift) - firstPage, (range.Last >> _shift) - firstPage);
            var seen = Interlocked.And(ref bits, ~cleared) & mask;
            for (; seen != 0; seen &= seen - 1)
                Set(firstPage + (word * 64) + (ulong)BitOperations.TrailingZeroCount(seen), range, shift, bitmap);
        }
    }

    // Sets the bits of the answer that a page of the log stands for.
    private void Set(ulong page, IovaRange range, int shift, Span<ulong> bitmap)
    {
        var start = range.Start.Value;
        var first = (Math.Max(page << _shift, start) - start) >> shift;
        var last = (Math.Min((page << _shift) | (PageSize - 1), range.Last) - start) >> shift;
        for (var word = first / 64; word <= last / 64; word++)
            bitmap[(int)word] |= Bits(word, first, last);
    }

    private sealed class Block(ulong number)
    {
        internal ulong Number { get; } = number;

        internal ulong[] Words { get; } = new ulong[WordsInBlock];
    }
}
