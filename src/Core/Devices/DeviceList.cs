namespace Virtbus.Core;

/// <summary>
/// A set of devices in an array, where each device knows its place: adding and removing take constant time and touch no other device.
/// Guarded by the fabric's gate.
/// </summary>
internal sealed class DeviceList
{
    private readonly List<Device> _devices = [];

    public int Count => _devices.Count;

    public void Add(Device device)
    {
        System.Diagnostics.Debug.Assert(device.List is null);
        device.List = this;
        device.ListIndex = _devices.Count;
        _devices.Add(device);
    }

    public static void Remove(Device device)
    {
        if (device.List is not { } list)
            return;
        var last = list._devices[^1];
        list._devices[device.ListIndex] = last;
        last.ListIndex = device.ListIndex;
        list._devices.RemoveAt(list._devices.Count - 1);
        device.List = null;
    }

    /// <summary>The devices in creation order.</summary>
    public Device[] ToArray()
    {
        var devices = _devices.ToArray();
        Array.Sort(devices, static (a, b) => a.Sequence.CompareTo(b.Sequence));
        return devices;
    }
}
