namespace Virtbus.Core;

/// <summary>A list that runs through the devices themselves, so that membership costs no object. Guarded by the fabric's gate.</summary>
internal sealed class DeviceList
{
    private Device? _first;
    private Device? _last;

    public int Count { get; private set; }

    public void Add(Device device)
    {
        System.Diagnostics.Debug.Assert(device.List is null);
        device.List = this;
        device.ListPrevious = _last;
        if (_last is null)
            _first = device;
        else
            _last.ListNext = device;
        _last = device;
        Count++;
    }

    public static void Remove(Device device)
    {
        if (device.List is not { } list)
            return;
        if (device.ListPrevious is null)
            list._first = device.ListNext;
        else
            device.ListPrevious.ListNext = device.ListNext;
        if (device.ListNext is null)
            list._last = device.ListPrevious;
        else
            device.ListNext.ListPrevious = device.ListPrevious;
        device.ListNext = device.ListPrevious = null;
        device.List = null;
        list.Count--;
    }

    /// <summary>The devices in creation order.</summary>
    public Device[] ToArray()
    {
        var devices = new Device[Count];
        var i = 0;
        for (var device = _first; device is not null; device = device.ListNext)
            devices[i++] = device;
        Array.Sort(devices, static (a, b) => a.Sequence.CompareTo(b.Sequence));
        return devices;
    }
}
