using System.Numerics;
using System.Runtime.CompilerServices;

namespace Virtbus.Memory.Dma;

/// <summary>
/// From an address to its range in one or two memory accesses, however many ranges there are and wherever they lie. Searches take no lock
/// and run inside a section of an <see cref="AccessSlot"/>; changes are made one at a time, under the space's lock.
/// </summary>
/// <remarks>
/// <para>
/// A hash table of cache lines, two entries in each; what has no room in its line goes to the next ones. A range is entered for each
/// aligned block of 2^n bytes that it touches, where n is one of few (4 KiB, 128 KiB, 4 MiB ... for whole pages) and the range as large as
/// an eighth of the block to four blocks: so it has up to five entries, and a block has few ranges. Few, because each n more that is in use
/// is one more that may be guessed wrong. A search asks for each n in use, the one that it guesses first, what there is for the block of
/// the address, and takes the entry whose range holds the address.
/// </para>
/// <para>
/// A range that goes leaves dead entries, which searches step over. They are used again only after a drain: so no search ever sees an
/// entry change from one range to another.
/// </para>
/// </remarks>
internal sealed unsafe class TranslationTable
{
    private const int MinLines = 16;
    private const int LineSlots = 2;
    private const int Line = 64;
    // The most entries that one range takes.
    private const int MaxBlocks = 5;
    // Ranges that have the block of that size for themselves are entered for it: they need one entry, and no size to be guessed.
    private const int LoneShift = 22;
    // Of so few ranges all entries are near the processor anyway.
    private const int FewRanges = 64;
    // A size is rare when another one has so many times its ranges.
    private const int RareFactor = 4;
    // So that a peer that chooses addresses cannot choose collisions.
    private static readonly ulong Seed = (ulong)Random.Shared.NextInt64();

    private readonly byte[] _store;
    private readonly Translation* _slots;
    private readonly uint _mask;
    // Whether nearly all ranges are far from each other.
    private readonly bool _apart;
    // For each line, how many live entries lie behind it that had no room in it.
    private readonly int[] _passed;
    private readonly int[] _rangesOf = new int[64];
    private ulong _shifts;
    private int _live;
    private int _taken;

    private TranslationTable(int lines, bool apart)
    {
        _apart = apart;
        _store = GC.AllocateArray<byte>((lines + 1) * Line, pinned: true);
        var start = (nint)Unsafe.AsPointer(ref _store[0]);
        // SAFETY: the array is pinned and has one line more than the slots take, so the aligned slots lie inside; it lives as long as
        // this object, and every method that uses the pointer keeps this object alive to its end.
        _slots = (Translation*)((start + Line - 1) & ~(nint)(Line - 1));
        _mask = (uint)lines - 1;
        _passed = new int[lines];
    }

    /// <summary>Makes a table with these ranges.</summary>
    internal static TranslationTable Create(MappingIndex mappings)
    {
        var together = 0;
        IoMapping? before = null;
        foreach (var mapping in mappings.All())
        {
            if (before is not null && before.Last >> LoneShift == mapping.Start >> LoneShift)
                together++;
            before = mapping;
        }

        var apart = mappings.Count >= FewRanges && together <= mappings.Count / 8;
        var entries = 0;
        foreach (var mapping in mappings.All())
        {
            mapping.Shift = ShiftOf(mapping, apart ? mappings : null);
            entries += (int)BlocksOf(mapping, out _);
        }

        var table = new TranslationTable(LinesFor(entries), apart);
        foreach (var mapping in mappings.All())
            table.Enter(mapping);
        return table;
    }

    /// <summary>Whether one more range may not fit; a new table is made then.</summary>
    internal bool IsFull => _taken + MaxBlocks > Limit((int)_mask + 1);

    /// <summary>Whether a new table would be much smaller.</summary>
    internal bool IsSparse => LinesFor(_live) * 4 <= _mask + 1;

    /// <summary>Finds the range that holds an address. Inside a section only.</summary>
    /// <param name="address">The address.</param>
    /// <param name="hint">The caller's own memory of what to guess; starts at 0.</param>
    /// <param name="found">The range.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal bool TryFind(ulong address, ref int hint, out Translation found)
    {
        // With ranges of like sizes, or the same size again, it is right.
        var guess = hint;
        return TryFindBlock(address, guess, out found) || TryFindOtherBlock(address, guess, ref hint, out found);
    }

    /// <summary>Enters a range that overlaps none, when the table is not full.</summary>
    /// <param name="mapping">The range.</param>
    /// <param name="others">All that are in the table.</param>
    internal void Add(IoMapping mapping, MappingIndex others)
    {
        mapping.Shift = ShiftOf(mapping, _apart ? others : null);
        Enter(mapping);
    }

    /// <summary>Makes a range unreachable. Its entries stay dead until <see cref="Reclaim"/>, or for good; the caller drains next.</summary>
    internal void Remove(IoMapping mapping)
    {
        var shift = mapping.Shift;
        var count = BlocksOf(mapping, out var first);
        for (ulong i = 0; i < count; i++)
        {
            // Entries of one range are alike, so the first one that is met will do, and the counts are right when all of them are gone.
            var line = Hash(first + i, shift) & _mask;
            Translation* slot;
            while (!IsLive(slot = _slots + (line * LineSlots), mapping) && !IsLive(++slot, mapping))
            {
                _passed[line]--;
                line = (line + 1) & _mask;
            }

            Volatile.Write(ref slot->Size, 0);
            _live--;
        }

        if (--_rangesOf[shift] == 0)
            Volatile.Write(ref _shifts, _shifts & ~(1ul << shift));
        GC.KeepAlive(this);
    }

    /// <summary>After the drain: frees the dead entries where a removed range was, unless a search has to go on behind them.</summary>
    internal void Reclaim(IoMapping mapping)
    {
        var shift = mapping.Shift;
        var count = BlocksOf(mapping, out var first);
        for (ulong i = 0; i < count; i++)
        {
            var line = Hash(first + i, shift) & _mask;
            while (true)
            {
                var slot = _slots + (line * LineSlots);
                var wasFull = slot[0].Access != DmaAccess.None && slot[1].Access != DmaAccess.None;
                if (_passed[line] == 0)
                {
                    Free(slot);
                    Free(slot + 1);
                }

                if (!wasFull)
                    break;
                line = (line + 1) & _mask;
            }
        }

        GC.KeepAlive(this);

        void Free(Translation* slot)
        {
            if (slot->Size != 0 || slot->Access == DmaAccess.None)
                return;
            slot->Access = DmaAccess.None;
            _taken--;
        }
    }

    private static bool IsLive(Translation* slot, IoMapping mapping) => slot->Start == mapping.Start && slot->Size != 0;

    // 2, 7, 12 ... 62: for sizes above 2^(shift - 3), up to 2^(shift + 2).
    private static int ShiftOf(IoMapping mapping, MappingIndex? others)
    {
        var log = 64 - BitOperations.LeadingZeroCount(mapping.Range.Size - 1);
        var shift = (log / 5 * 5) + 2;
        return shift < LoneShift && others is not null && IsAlone(mapping, others) ? LoneShift : shift;
    }

    private static bool IsAlone(IoMapping mapping, MappingIndex others) =>
        (mapping.Start == 0 || others.AtOrBelow(mapping.Start - 1) is not { } below || below.Last >> LoneShift != mapping.Start >> LoneShift) &&
        (mapping.Last == ulong.MaxValue || others.AtOrAbove(mapping.Last + 1) is not { } above || above.Start >> LoneShift != mapping.Last >> LoneShift);

    private static ulong BlocksOf(IoMapping mapping, out ulong first)
    {
        first = mapping.Start >> mapping.Shift;
        return (mapping.Last >> mapping.Shift) - first + 1;
    }

    // Half: nearly every search ends in the first line then, and one that does not costs a branch guessed wrong.
    private static long Limit(long lines) => lines * LineSlots / 2;

    // One eighth and a few ranges to spare, so that a table at its limit is not made anew at every change.
    private static int LinesFor(int entries)
    {
        var lines = MinLines;
        while (Limit(lines) < entries + (entries / 8) + MaxBlocks)
            lines = checked(lines * 2);
        return lines;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint Hash(ulong block, int shift)
    {
        var hash = (block ^ Seed) * 0x9E3779B97F4A7C15;
        hash ^= hash >> 32;
        hash = (hash + (uint)shift) * 0xD6E8FEB86659FD93;
        return (uint)(hash >> 32);
    }

    private void Enter(IoMapping mapping)
    {
        var shift = mapping.Shift;
        if (_rangesOf[shift]++ == 0)
            Volatile.Write(ref _shifts, _shifts | (1ul << shift));
        var count = BlocksOf(mapping, out var first);
        for (ulong i = 0; i < count; i++)
        {
            var line = Hash(first + i, shift) & _mask;
            Translation* slot;
            while ((slot = _slots + (line * LineSlots))->Size != 0 && (++slot)->Size != 0)
            {
                _passed[line]++;
                line = (line + 1) & _mask;
            }

            if (slot->Access == DmaAccess.None)
                _taken++;
            _live++;
            slot->Start = mapping.Start;
            slot->Target = mapping.Memory is { } memory ? memory.Address + (nint)mapping.Offset : 0;
            slot->Remote = mapping.RemoteIndex;
            slot->Access = mapping.Access;
            // Release: a search that sees the size sees the rest.
            Volatile.Write(ref slot->Size, mapping.Range.Size);
        }

        GC.KeepAlive(this);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private bool TryFindBlock(ulong address, int shift, out Translation found)
    {
        var line = Hash(address >> shift, shift) & _mask;
        while (true)
        {
            // SAFETY: the mask keeps the index inside the table.
            var slots = _slots + (line * LineSlots);
            // No branch, which would be guessed wrong half of the time.
            var size = Volatile.Read(ref slots[1].Size);
            var slot = slots + Unsafe.BitCast<bool, byte>(address - slots[1].Start < size);
            size = Volatile.Read(ref slot->Size);
            // Start and the rest stand still while a size is there that this search has seen: see the remarks.
            if (address - slot->Start < size)
            {
                found = *slot;
                found.Size = size;
                GC.KeepAlive(this);
                return true;
            }

            if (slots[0].Access == DmaAccess.None || slots[1].Access == DmaAccess.None)
            {
                found = default;
                GC.KeepAlive(this);
                return false;
            }

            line = (line + 1) & _mask;
        }
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private bool TryFindOtherBlock(ulong address, int guess, ref int hint, out Translation found)
    {
        for (var shifts = Volatile.Read(ref _shifts) & ~(1ul << guess); shifts != 0; shifts &= shifts - 1)
        {
            var shift = BitOperations.TrailingZeroCount(shifts);
            if (!TryFindBlock(address, shift, out found))
                continue;
            // A size that is rare would make the next guess wrong too.
            if (_rangesOf[shift] >= _rangesOf[guess] / RareFactor)
                hint = shift;
            return true;
        }

        found = default;
        return false;
    }
}
