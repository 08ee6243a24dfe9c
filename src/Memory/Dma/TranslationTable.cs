using System.Numerics;
using System.Runtime.CompilerServices;

namespace Virtbus.Memory.Dma;

/// <summary>
/// From an address to its range in one or two memory accesses, however many ranges there are and wherever they lie. Searches take no lock
/// and run inside a section of an <see cref="AccessSlot"/>; changes are made one at a time, under the space's lock.
/// </summary>
/// <remarks>
/// <para>
/// A hash table with linear probing. A range of 2^n bytes up to below 2^(n+4), n a multiple of 4, is of class n/4 and is entered once for each
/// aligned block of 2^n bytes that it touches: 17 at most, once for a page. A search asks each class in use, the last lucky one first, for
/// the block of the address, and takes the entry whose range holds the address. A block that two odd ranges share simply has two entries.
/// </para>
/// <para>
/// A range that goes leaves dead entries, which searches step over. They are used again only after a drain: so no search ever sees an
/// entry change from one range to another.
/// </para>
/// </remarks>
internal sealed unsafe class TranslationTable
{
    private const int ClassBits = 4;
    private const int MinSlots = 32;
    // The most slots that one range takes.
    private const int MaxBlocks = (1 << ClassBits) + 1;
    // So that a peer that chooses addresses cannot choose collisions.
    private static readonly ulong Seed = (ulong)Random.Shared.NextInt64();

    private readonly byte[] _store;
    private readonly Translation* _slots;
    private readonly uint _mask;
    private readonly int[] _inClass = new int[64 / ClassBits];
    private uint _classes;
    private int _live;
    private int _taken;

    private TranslationTable(int slots)
    {
        const int Line = 64;
        _store = GC.AllocateArray<byte>((slots * sizeof(Translation)) + Line, pinned: true);
        var start = (nint)Unsafe.AsPointer(ref _store[0]);
        // SAFETY: the array is pinned and has one line more than the slots take, so the aligned slots lie inside; it lives as long as
        // this object, and every method that uses the pointer keeps this object alive to its end.
        _slots = (Translation*)((start + Line - 1) & ~(nint)(Line - 1));
        _mask = (uint)slots - 1;
    }

    /// <summary>Makes a table with these ranges, no two of which overlap.</summary>
    internal static TranslationTable Create(IEnumerable<IoMapping> mappings)
    {
        var entries = 0;
        foreach (var mapping in mappings)
            entries += (int)BlocksOf(mapping, ClassOf(mapping), out _);
        var table = new TranslationTable(SlotsFor(entries));
        foreach (var mapping in mappings)
            table.Add(mapping);
        return table;
    }

    /// <summary>Whether one more range may not fit; a new table has to be made then.</summary>
    internal bool IsFull => _taken + MaxBlocks > Limit(_mask + 1);

    /// <summary>Whether a new table would be much smaller.</summary>
    internal bool IsSparse => SlotsFor(_live) * 4 <= _mask + 1;

    /// <summary>Finds the range that holds an address. Inside a section only.</summary>
    /// <param name="address">The address.</param>
    /// <param name="hint">The caller's own memory of the class that was hit last; starts at 0.</param>
    /// <param name="found">The range.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal bool TryFind(ulong address, ref int hint, out Translation found)
    {
        var last = hint;
        if (TryFindInClass(address, last, out found))
            return true;
        return TryFindInOthers(address, last, ref hint, out found);
    }

    /// <summary>Enters a range that overlaps none, when the table is not full.</summary>
    internal void Add(IoMapping mapping)
    {
        var number = ClassOf(mapping);
        if (_inClass[number]++ == 0)
            Volatile.Write(ref _classes, _classes | (1u << number));
        var count = BlocksOf(mapping, number, out var first);
        for (ulong i = 0; i < count; i++)
        {
            var at = Hash(first + i, number) & _mask;
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
        var number = ClassOf(mapping);
        var count = BlocksOf(mapping, number, out var first);
        for (ulong i = 0; i < count; i++)
        {
            var at = Hash(first + i, number) & _mask;
            while (_slots[at].Start != mapping.Start || _slots[at].Size == 0)
                at = (at + 1) & _mask;
            Volatile.Write(ref _slots[at].Size, 0);
            _live--;
        }

        if (--_inClass[number] == 0)
            Volatile.Write(ref _classes, _classes & ~(1u << number));
        GC.KeepAlive(this);
    }

    /// <summary>After the drain: frees dead entries of a removed range that no chain of entries passes over.</summary>
    internal void Reclaim(IoMapping mapping)
    {
        var number = ClassOf(mapping);
        var count = BlocksOf(mapping, number, out var first);
        for (ulong i = 0; i < count; i++)
        {
            var at = Hash(first + i, number) & _mask;
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

    private static int ClassOf(IoMapping mapping) => BitOperations.Log2(mapping.Range.Size) / ClassBits;

    private static ulong BlocksOf(IoMapping mapping, int number, out ulong first)
    {
        var shift = number * ClassBits;
        first = mapping.Start >> shift;
        return (mapping.Last >> shift) - first + 1;
    }

    private static long Limit(long slots) => slots - (slots / 4);

    // One eighth and a few ranges to spare, so that a table at its limit is not made anew at every change.
    private static int SlotsFor(int blocks)
    {
        var slots = MinSlots;
        while (Limit(slots) < blocks + (blocks / 8) + MaxBlocks)
            slots = checked(slots * 2);
        return slots;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static uint Hash(ulong block, int number)
    {
        var hash = (block ^ Seed) * 0x9E3779B97F4A7C15;
        hash ^= hash >> 32;
        hash = (hash + (uint)number) * 0xD6E8FEB86659FD93;
        return (uint)(hash >> 32);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private bool TryFindInClass(ulong address, int number, out Translation found)
    {
        var at = Hash(address >> (number * ClassBits), number) & _mask;
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
    private bool TryFindInOthers(ulong address, int last, ref int hint, out Translation found)
    {
        for (var rest = Volatile.Read(ref _classes) & ~(1u << last); rest != 0; rest &= rest - 1)
        {
            var number = BitOperations.TrailingZeroCount(rest);
            if (!TryFindInClass(address, number, out found))
                continue;
            hint = number;
            return true;
        }

        found = default;
        return false;
    }
}
