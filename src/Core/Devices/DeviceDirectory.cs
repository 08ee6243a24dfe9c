using System.Collections.Concurrent;
using System.Diagnostics.CodeAnalysis;

namespace Virtbus.Core;

/// <summary>Devices by name. Readers take no lock; writers hold the fabric's gate.</summary>
internal sealed class DeviceDirectory
{
    private readonly bool _byPlace;
    private readonly ConcurrentDictionary<string, Device> _devices = new(concurrencyLevel: 1, capacity: 1);

    /// <summary>Makes an empty directory.</summary>
    /// <param name="byPlace">Whether the key is the device's place below its parent, or its plain name.</param>
    public DeviceDirectory(bool byPlace = false) => _byPlace = byPlace;

    public bool IsEmpty => _devices.IsEmpty;

    public int Count => _devices.Count;

    public bool TryGet(string name, [NotNullWhen(true)] out Device? device) => _devices.TryGetValue(name, out device);

    public bool TryAdd(Device device) => _devices.TryAdd(Key(device), device);

    public void Remove(Device device) => _devices.TryRemove(new KeyValuePair<string, Device>(Key(device), device));

    private string Key(Device device) => _byPlace ? device.Place : device.Name;

    /// <summary>The devices in creation order.</summary>
    public Device[] Snapshot()
    {
        // ToArray of a concurrent dictionary is one consistent copy.
        var pairs = _devices.ToArray();
        var devices = new Device[pairs.Length];
        for (var i = 0; i < pairs.Length; i++)
            devices[i] = pairs[i].Value;
        Array.Sort(devices, static (a, b) => a.Sequence.CompareTo(b.Sequence));
        return devices;
    }
}
