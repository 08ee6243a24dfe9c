using System.Diagnostics.CodeAnalysis;

namespace Virtbus.Core;

/// <summary>
/// Devices by name: the devices themselves in a row, in the order in which they came, and a hash table of numbers that finds a place in the
/// row. Readers take no lock and never wait; writers hold the fabric's gate.
/// </summary>
/// <remarks>
/// References stand in the row only. The collector looks again at whatever part of an old array was written to: in a row that is its end,
/// in a hash table it would be all of it, at each collection.
/// </remarks>
internal sealed class DeviceDirectory
{
    private const int MinSlots = 8;

    private readonly bool _byPlace;
    private Table _table = new(MinSlots);
    private int _used;

    /// <summary>Makes an empty directory.</summary>
    /// <param name="byPlace">Whether the key is the device's place below its parent, or its plain name.</param>
    public DeviceDirectory(bool byPlace = false) => _byPlace = byPlace;

    public int Count { get; private set; }

    public bool IsEmpty => Count == 0;

    public bool TryGet(string name, [NotNullWhen(true)] out Device? device)
    {
        device = Find(name, StringComparer.Ordinal.GetHashCode(name));
        return device is not null;
    }

    /// <summary>Whether the directory has a device of the same name.</summary>
    public bool Has(Device device) => !IsEmpty && Find(Key(device), HashOf(device)) is not null;

    public bool TryAdd(Device device)
    {
        var hash = HashOf(device);
        if (Find(Key(device), hash) is not null)
            return false;
        if (_used == _table.Row.Length)
            Rebuild();
        var (slots, row) = _table;
        // A reader that finds the slot finds the device.
        Volatile.Write(ref row[_used], device);
        Volatile.Write(ref slots[FreeSlot(slots, hash)], Slot.Make(hash, _used));
        _used++;
        Count++;
        return true;
    }

    public void Remove(Device device)
    {
        var (slots, row) = _table;
        var hash = HashOf(device);
        for (var i = hash & (slots.Length - 1); slots[i] != Slot.Empty; i = (i + 1) & (slots.Length - 1))
        {
            if (!Slot.Is(slots[i], hash) || row[Slot.Place(slots[i])] != device)
                continue;
            row[Slot.Place(slots[i])] = null;
            // A reader on its way past must not take this slot for the end.
            Volatile.Write(ref slots[i], Slot.Gone);
            Count--;
            if (slots.Length > MinSlots && Count * 16 < slots.Length)
                Rebuild();
            return;
        }
    }

    /// <summary>The devices in creation order.</summary>
    public Device[] Snapshot()
    {
        var devices = new List<Device>(Count);
        foreach (ref var place in Volatile.Read(ref _table).Row.AsSpan())
        {
            if (Volatile.Read(ref place) is { } device)
                devices.Add(device);
        }
        devices.Sort(static (a, b) => a.Sequence.CompareTo(b.Sequence));
        return [.. devices];
    }

    // Only class devices have a place that is not their name.
    private string Key(Device device) => _byPlace ? device.Place : device.Name;

    private int HashOf(Device device) =>
        _byPlace && device.Class is not null ? StringComparer.Ordinal.GetHashCode(device.Place) : device.NameHash;

    private Device? Find(string name, int hash)
    {
        var (slots, row) = Volatile.Read(ref _table);
        for (var i = hash & (slots.Length - 1); Volatile.Read(ref slots[i]) is var slot && slot != Slot.Empty; i = (i + 1) & (slots.Length - 1))
        {
            // The hash keeps most devices from being touched. A place in the row is not used again, so what is there is what the slot stands for.
            if (Slot.Is(slot, hash) && Volatile.Read(ref row[Slot.Place(slot)]) is { } found && Key(found) == name)
                return found;
        }
        return null;
    }

    // A quarter full at most, with the devices closed up. Readers keep the table that they have.
    private void Rebuild()
    {
        var old = _table;
        var size = MinSlots;
        while (size < Count * 4)
            size *= 2;
        var table = new Table(size);
        var places = Count == _used ? null : new int[_used];
        var used = 0;
        for (var i = 0; i < _used; i++)
        {
            if (old.Row[i] is not { } device)
                continue;
            if (places is not null)
                places[i] = used;
            table.Row[used++] = device;
        }
        foreach (var slot in old.Slots)
        {
            if (slot is Slot.Empty or Slot.Gone)
                continue;
            var place = Slot.Place(slot);
            table.Slots[FreeSlot(table.Slots, Slot.Hash(slot))] = Slot.Make(Slot.Hash(slot), places is null ? place : places[place]);
        }
        _used = used;
        Volatile.Write(ref _table, table);
    }

    private static int FreeSlot(ulong[] slots, int hash)
    {
        var i = hash & (slots.Length - 1);
        while (slots[i] != Slot.Empty)
            i = (i + 1) & (slots.Length - 1);
        return i;
    }

    // Hash table and row are replaced together, so that the numbers in one are places in the other.
    private sealed class Table(int slots)
    {
        public ulong[] Slots { get; } = new ulong[slots];

        /// <summary>Ends where the hash table is half full.</summary>
        public Device?[] Row { get; } = new Device?[slots / 2];

        public void Deconstruct(out ulong[] slots, out Device?[] row) => (slots, row) = (Slots, Row);
    }

    // The hash above, one more than the place in the row below: written and read in one step.
    private static class Slot
    {
        public const ulong Empty = 0;
        public const ulong Gone = ulong.MaxValue;

        public static ulong Make(int hash, int place) => ((ulong)(uint)hash << 32) | (uint)(place + 1);

        public static bool Is(ulong slot, int hash) => slot != Gone && Hash(slot) == hash;

        public static int Hash(ulong slot) => (int)(slot >> 32);

        public static int Place(ulong slot) => (int)(uint)slot - 1;
    }
}
