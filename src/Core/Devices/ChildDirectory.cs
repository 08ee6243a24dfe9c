using System.Diagnostics.CodeAnalysis;

namespace Virtbus.Core;

/// <summary>
/// The devices below one, or at the root. A bus knows its devices by name already, so those on a bus have no name here again: a child is
/// looked for on the buses that children are on. Readers take no lock and never wait; writers hold the fabric's gate.
/// </summary>
internal sealed class ChildDirectory(Device? parent)
{
    private const int MinRow = 4;

    // The children in the order in which they came, with gaps; each knows its place.
    private Device?[] _row = new Device?[MinRow];
    private int _used;

    // Those without a bus, and those whose place is not their name.
    private readonly DeviceDirectory _named = new(byPlace: true);
    private OnBus[] _buses = [];

    public int Count { get; private set; }

    public bool IsEmpty => Count == 0;

    public bool TryGet(string place, [NotNullWhen(true)] out Device? device) => _named.TryGet(place, out device) || TryGetOnBus(place, null, out device);

    /// <summary>Adds a device, unless another one has its place. That no other one on its bus has its name was looked at before.</summary>
    public bool TryAdd(Device device)
    {
        if (TryGetOnBus(device.Place, device.Bus, out _))
            return false;
        if (IsFoundOnBus(device) ? _named.Has(device) : !_named.TryAdd(device))
            return false;
        if (IsFoundOnBus(device))
            CountOn(device.Bus!, 1);
        if (_used == _row.Length)
            Rebuild();
        device.ChildIndex = _used;
        Volatile.Write(ref _row[_used++], device);
        Count++;
        return true;
    }

    public void Remove(Device device)
    {
        if (IsFoundOnBus(device))
            CountOn(device.Bus!, -1);
        else
            _named.Remove(device);
        Volatile.Write(ref _row[device.ChildIndex], null);
        Count--;
        while (_used > 0 && _row[_used - 1] is null)
            _used--;
        if (_row.Length > MinRow && Count * 8 < _row.Length)
            Rebuild();
    }

    /// <summary>The devices in creation order.</summary>
    public Device[] Snapshot()
    {
        var devices = new List<Device>(Count);
        foreach (ref var place in Volatile.Read(ref _row).AsSpan())
        {
            if (Volatile.Read(ref place) is { } device)
                devices.Add(device);
        }
        // A place in the row may be taken again while it is walked.
        devices.Sort(static (a, b) => a.Sequence.CompareTo(b.Sequence));
        return [.. devices];
    }

    private static bool IsFoundOnBus(Device device) => device.Bus is not null && device.Class is null;

    private bool TryGetOnBus(string name, Bus? except, [NotNullWhen(true)] out Device? device)
    {
        foreach (var on in Volatile.Read(ref _buses))
        {
            if (on.Bus != except && on.Bus.TryGetDevice(name, out device) && device.Parent == parent && device.Class is null)
                return true;
        }
        device = null;
        return false;
    }

    // A bus without children here is forgotten: it may be of a module that goes.
    private void CountOn(Bus bus, int change)
    {
        foreach (var on in _buses)
        {
            if (on.Bus != bus)
                continue;
            on.Children += change;
            if (on.Children == 0)
                Volatile.Write(ref _buses, [.. _buses.Where(static o => o.Children > 0)]);
            return;
        }
        Volatile.Write(ref _buses, [.. _buses, new OnBus(bus) { Children = change }]);
    }

    // Half full at most, with the devices closed up. Readers keep the row that they have.
    private void Rebuild()
    {
        var size = MinRow;
        while (size < Count * 2)
            size *= 2;
        var row = new Device?[size];
        var used = 0;
        foreach (var child in _row.AsSpan(0, _used))
        {
            if (child is null)
                continue;
            // Without gaps nothing moves, and no device is touched.
            if (Count < _used)
                child.ChildIndex = used;
            row[used++] = child;
        }
        _used = used;
        Volatile.Write(ref _row, row);
    }

    private sealed class OnBus(Bus bus)
    {
        public Bus Bus { get; } = bus;

        public int Children;
    }
}
