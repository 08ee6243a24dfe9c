using System.Diagnostics.CodeAnalysis;

namespace Virtbus.Core;

/// <summary>
/// Devices by name: a hash table with open addressing, so that membership costs a slot and no object, at a thousand devices and at a
/// million. Readers take no lock and never wait; writers hold the fabric's gate.
/// </summary>
internal sealed class DeviceDirectory
{
    private const int MinSlots = 8;
    private static readonly Device Gone = new("gone");

    private readonly bool _byPlace;
    private Slot[] _slots = new Slot[MinSlots];
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

    public bool TryAdd(Device device)
    {
        var hash = HashOf(device);
        if (Find(Key(device), hash) is not null)
            return false;
        if ((_used + 1) * 2 > _slots.Length)
            Rebuild();
        Insert(_slots, device, hash);
        _used++;
        Count++;
        return true;
    }

    public void Remove(Device device)
    {
        var slots = _slots;
        for (var i = HashOf(device) & (slots.Length - 1); slots[i].Device is { } found; i = (i + 1) & (slots.Length - 1))
        {
            if (found != device)
                continue;
            // A reader on its way past must not take this slot for the end.
            Volatile.Write(ref slots[i].Device, Gone);
            Count--;
            if (slots.Length > MinSlots && Count * 16 < slots.Length)
                Rebuild();
            return;
        }
    }

    /// <summary>The devices in creation order.</summary>
    public Device[] Snapshot()
    {
        var slots = Volatile.Read(ref _slots);
        var devices = new List<Device>(Count);
        for (var i = 0; i < slots.Length; i++)
        {
            if (Volatile.Read(ref slots[i].Device) is { } device && device != Gone)
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
        var slots = Volatile.Read(ref _slots);
        for (var i = hash & (slots.Length - 1); Volatile.Read(ref slots[i].Device) is { } found; i = (i + 1) & (slots.Length - 1))
        {
            // The hash was written before the device, so it is there when the device is; it keeps most devices from being touched.
            if (slots[i].Hash == hash && found != Gone && Key(found) == name)
                return found;
        }
        return null;
    }

    private void Rebuild()
    {
        var size = MinSlots;
        while (size < (Count + 1) * 4)
            size *= 2;
        var slots = new Slot[size];
        foreach (var slot in _slots)
        {
            if (slot.Device is { } device && device != Gone)
                Insert(slots, device, slot.Hash);
        }
        _used = Count;
        Volatile.Write(ref _slots, slots);
    }

    private static void Insert(Slot[] slots, Device device, int hash)
    {
        var i = hash & (slots.Length - 1);
        while (slots[i].Device is not null)
            i = (i + 1) & (slots.Length - 1);
        slots[i].Hash = hash;
        Volatile.Write(ref slots[i].Device, device);
    }

    private struct Slot
    {
        public Device? Device;
        public int Hash;
    }
}
