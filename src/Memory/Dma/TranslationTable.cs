using System.Numerics;
using System.Runtime.CompilerServices;

namespace Virtbus.Memory.Dma;

/// <summary>
/// From an address to its range in one or two memory accesses, however many ranges there are and wherever they lie. Searches take no lock
/// and run inside a section of an <see cref="AccessSlot"/>; changes are made one at a time, under the space's lock.
/// </summary>
/// <remarks>
/// <para>
/// A hash table with linear probing. A range is entered for each aligned block of 2^n bytes that it touches, where 2^n is its size or
/// somewhat more, and n a multiple of 3 (4 KiB, 32 KiB, 256 KiB, 2 MiB ... 1 GiB): so it has one or two entries, and a block has few ranges. A
/// search asks for each n in use, the last lucky one first, what there is for the block of the address, and takes the entry whose range
/// holds the address.
/// </para>
/// <para>
/// A range that goes leaves dead entries, which searches step over. They are used again only after a drain: so no search ever sees an
/// entry change from one range to another.
/// </para>
/// </remarks>
internal sealed unsafe class TranslationTable
{
    private const int MinSlots = 32;
    private const int MinFilterWords = 64;
    // The most slots that one range takes.
    private const int MaxBlocks = 2;
    // So that a peer that chooses addresses cannot choose collisions.
    private static readonly ulong Seed = (ulong)Random.Shared.NextInt64();

    private readonly byte[] _store;
    // A bit for each entry, by its hash, never taken back: where none is set, the table need not be asked. It fits into a nearer cache, and
    // that is what counts where ranges of many sizes are mixed.
    private readonly ulong[] _filter;
    private readonly uint _filterMask;
    private readonly Translation* _slots;
    private readonly uint _mask;
    private readonly int[] _rangesOf = new int[64];
    private ulong _shifts;
    private int _live;
    private int _taken;
    private int _stale;

    private TranslationTable(int slots)
    {
        const int Line = 64;
        _store = GC.AllocateArray<byte>((slots * sizeof(Translation)) + Line, pinned: true);
        var start = (nint)Unsafe.AsPointer(ref _store[0]);
        // SAFETY: the array is pinned and has one line more than the slots take, so the aligned slots lie inside; it lives as long as
        // this object, and every method that uses the pointer keeps this object alive to its end.
        _slots = (Translation*)((start + Line - 1) & ~(nint)(Line - 1));
        _mask = (uint)slots - 1;
        _filter = new ulong[Math.Max(MinFilterWords, slots / 16)];
        _filterMask = (uint)_filter.Length - 1;
    }

    /// <summary>Makes a table with these ranges, no two of which overlap.</summary>
    internal static TranslationTable Create(IEnumerable<IoMapping> mappings)
    {
        var entries = 0;
        foreach (var mapping in mappings)
            entries += (int)BlocksOf(mapping, ShiftOf(mapping), out _);
        var table = new TranslationTable(SlotsFor(entries));
        foreach (var mapping in mappings)
            table.Add(mapping);
        return table;
    }

    /// <summary>Whether one more range may not fit, or the filter has bits of too many that are gone; a new table is made then.</summary>
    internal bool IsFull => _taken + MaxBlocks > Limit(_mask + 1) || _stale > _filter.Length * 8;

    /// <summary>Whether a new table would be much smaller.</summary>
    internal bool IsSparse => SlotsFor(_live) * 4 <= _mask + 1;

    /// <summary>Finds the range that holds an address. Inside a section only.</summary>
    /// <param name="address">The address.</param>
    /// <param name="hint">The caller's own memory of what was lucky last; starts at 0.</param>
    /// <param name="found">The range.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal bool TryFind(ulong address, ref int hint, out Translation found)
    {
        // With ranges of one size, or the same size again, the first guess is right.
        var last = hint;
        var shifts = Volatile.Read(ref _shifts);
        var hash = Hash(address >> last, last);
        if (((shifts & (shifts - 1)) == 0 || IsInFilter(hash)) && TryFindBlock(address, hash, out found))
            return true;
        return TryFindOtherBlock(address, shifts & ~(1ul << last), ref hint, out found);
    }

    /// <summary>Enters a range that overlaps none, when the table is not full.</summary>
    internal void Add(IoMapping mapping)
    {
        var shift = ShiftOf(mapping);
        if (_rangesOf[shift]++ == 0)
            Volatile.Write(ref _shifts, _shifts | (1ul << shift));
        var count = BlocksOf(mapping, shift, out var first);
        for (ulong i = 0; i < count; i++)
        {
            var hash = Hash(first + i, shift);
            ref var bits = ref _filter[hash >> 6 & _filterMask];
            Volatile.Write(ref bits, bits | (1ul << (int)(hash >> 26)));
            var at = hash & _mask;
            while (_slots[at].Size != 0)
                at = (at + 1) & _mask;
            var slot = _slots + at;
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

    /// <summary>Makes a range unreachable. Its entries stay dead until <see cref="Reclaim"/>, or for good; the caller drains next.</summary>
    internal void Remove(IoMapping mapping)
    {
        var shift = ShiftOf(mapping);
        var count = BlocksOf(mapping, shift, out var first);
        for (ulong i = 0; i < count; i++)
        {
            // Entries are removed in the order in which they were added: so the first one that fits is this block's, and not the next one's.
            var at = Hash(first + i, shift) & _mask;
            while (_slots[at].Start != mapping.Start || _slots[at].Size == 0)
                at = (at + 1) & _mask;
            Volatile.Write(ref _slots[at].Size, 0);
            _live--;
            _stale++;
        }

        if (--_rangesOf[shift] == 0)
            Volatile.Write(ref _shifts, _shifts & ~(1ul << shift));
        GC.KeepAlive(this);
    }

    /// <summary>After the drain: frees dead entries of a removed range that no chain of entries passes over.</summary>
    internal void Reclaim(IoMapping mapping)
    {
        var shift = ShiftOf(mapping);
        var count = BlocksOf(mapping, shift, out var first);
        for (ulong i = 0; i < count; i++)
        {
            var at = Hash(first + i, shift) & _mask;
            while (_slots[at].Access != DmaAccess.None && (_slots[at].Start != mapping.Start || _slots[at].Size != 0))
                at = (at + 1) & _mask;
            if (_slots[(at + 1) & _mask].Access != DmaAccess.None)
                continue;
            for (; _slots[at].Size == 0 && _slots[at].Access != DmaAccess.None; at = (at - 1) & _mask)
            {
                _slots[at].Access = DmaAccess.None;
                _taken--;
            }
        }

        GC.KeepAlive(this);
    }

    private static int ShiftOf(IoMapping mapping)
    {
        var log = 64 - BitOperations.LeadingZeroCount(mapping.Range.Size - 1);
        return Math.Min((log + 2) / 3 * 3, 63);
    }

    private static ulong BlocksOf(IoMapping mapping, int shift, out ulong first)
    {
        first = mapping.Start >> shift;
        return (mapping.Last >> shift) - first + 1;
    }

    // Half: most searches end at the first entry then, and one that does not costs a branch guessed wrong.
    private static long Limit(long slots) => slots / 2;

    // One eighth and a few ranges to spare, so that a table at its limit is not made anew at every change.
    private static int SlotsFor(int blocks)
    {
        var slots = MinSlots;
        while (Limit(slots) < blocks + (blocks / 8) + MaxBlocks)
            slots = checked(slots * 2);
        return slots;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint Hash(ulong block, int shift)
    {
        var hash = (block ^ Seed) * 0x9E3779B97F4A7C15;
        hash ^= hash >> 32;
        hash = (hash + (uint)shift) * 0xD6E8FEB86659FD93;
        return (uint)(hash >> 32);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private bool IsInFilter(uint hash) => (Volatile.Read(ref _filter[hash >> 6 & _filterMask]) >> (int)(hash >> 26) & 1) != 0;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private bool TryFindBlock(ulong address, uint hash, out Translation found)
    {
        var at = hash & _mask;
        while (true)
        {
            // SAFETY: the mask keeps the index inside the table.
            var slot = _slots + at;
            var size = Volatile.Read(ref slot->Size);
            // Start and the rest stand still while a size is there that this search has seen: see the remarks.
            if (address - slot->Start < size)
            {
                found = *slot;
                found.Size = size;
                GC.KeepAlive(this);
                return true;
            }

            if (size == 0 && slot->Access == DmaAccess.None)
            {
                found = default;
                GC.KeepAlive(this);
                return false;
            }

            at = (at + 1) & _mask;
        }
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private bool TryFindOtherBlock(ulong address, ulong shifts, ref int hint, out Translation found)
    {
        for (; shifts != 0; shifts &= shifts - 1)
        {
            var shift = BitOperations.TrailingZeroCount(shifts);
            var hash = Hash(address >> shift, shift);
            if (!IsInFilter(hash) || !TryFindBlock(address, hash, out found))
                continue;
            hint = shift;
            return true;
        }

        found = default;
        return false;
    }
}
