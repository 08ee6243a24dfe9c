using Virtbus.Ethernet;
using Virtbus.Virtio;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;

namespace Virtbus.Models.VirtioNet;

/// <summary>
/// What a driver settled and what it set by commands. Read on any thread, as values that never change; changed under a lock that is held for the exchange
/// only.
/// </summary>
internal sealed class NetSettings
{
    private readonly Lock _lock = new();
    private readonly ulong _mac;
    private ReceiveFilter _filter;
    private FlowSteering _steering = new(1);
    private VirtioFeatures _features;
    private ulong? _offloads;
    private int _takes;
    private int _status = VIRTIO_NET_S_LINK_UP;
    private int _generation;

    internal NetSettings(ulong mac)
    {
        _mac = mac;
        _filter = new ReceiveFilter(mac);
    }

    internal ReceiveFilter Filter => Volatile.Read(ref _filter);

    internal FlowSteering Steering => Volatile.Read(ref _steering);

    /// <summary>What the driver takes over of frames' offload data.</summary>
    internal OffloadKinds Takes => (OffloadKinds)Volatile.Read(ref _takes);

    /// <summary>The field of the configuration.</summary>
    internal ushort Status => (ushort)Volatile.Read(ref _status);

    internal bool IsLinkUp => (Status & VIRTIO_NET_S_LINK_UP) != 0;

    /// <summary>How often the device was reset: a frame that came in before is for nobody.</summary>
    internal int Generation => Volatile.Read(ref _generation);

    /// <summary>What the driver set by VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET; null for what its features say.</summary>
    internal ulong? Offloads
    {
        get
        {
            lock (_lock)
                return _offloads;
        }
    }

    /// <summary>A queue is about to run with these features.</summary>
    internal void Settle(VirtioFeatures features)
    {
        lock (_lock)
        {
            _features = features;
            SettleLocked();
        }
    }

    /// <summary>Changes the filter.</summary>
    /// <param name="change">What it becomes.</param>
    /// <param name="generation">Of which user that is; for another one it stays.</param>
    internal void Change(Func<ReceiveFilter, ReceiveFilter> change, int generation)
    {
        lock (_lock)
        {
            if (generation == _generation)
                Volatile.Write(ref _filter, change(_filter));
        }
    }

    /// <summary>Changes the steering, as <see cref="Change(Func{ReceiveFilter, ReceiveFilter}, int)"/> does the filter.</summary>
    internal void Change(Func<FlowSteering, FlowSteering> change, int generation)
    {
        lock (_lock)
        {
            if (generation == _generation)
                Volatile.Write(ref _steering, change(_steering));
        }
    }

    /// <summary>False when the driver did not take a feature among them, or is another one.</summary>
    internal bool TrySetOffloads(ulong bits, int generation)
    {
        lock (_lock)
        {
            if (generation != _generation || (bits & ~(_features.Low & NetOffloads.GuestBits)) != 0)
                return false;
            _offloads = bits;
            SettleLocked();
            return true;
        }
    }

    /// <summary>Sets or clears a bit of the status.</summary>
    /// <returns>Whether it was different.</returns>
    internal bool SetStatus(ushort bit, bool on) => ((on ? Interlocked.Or(ref _status, bit) : Interlocked.And(ref _status, ~bit)) & bit) != 0 != on;

    /// <summary>The driver has announced where it is, or is another one by now.</summary>
    /// <returns>Whether that was asked of it.</returns>
    internal bool TryAcknowledge(int generation)
    {
        lock (_lock)
            return generation == _generation && SetStatus(VIRTIO_NET_S_ANNOUNCE, false);
    }

    /// <summary>The device is reset, with its queues at rest. The link is not the driver's.</summary>
    internal void Reset()
    {
        lock (_lock)
        {
            Volatile.Write(ref _generation, _generation + 1);
            _features = VirtioFeatures.None;
            Replace(new ReceiveFilter(_mac), new FlowSteering(1), null, (ushort)(_status & VIRTIO_NET_S_LINK_UP));
        }
    }

    /// <summary>Another device's settings, with the queues at rest.</summary>
    internal void Replace(ReceiveFilter filter, FlowSteering steering, ulong? offloads, ushort status)
    {
        lock (_lock)
        {
            Volatile.Write(ref _filter, filter);
            Volatile.Write(ref _steering, steering);
            _offloads = offloads;
            Volatile.Write(ref _status, status);
            SettleLocked();
        }
    }

    private void SettleLocked()
    {
        Volatile.Write(ref _takes, (int)NetOffloads.Taken(_offloads ?? (_features.Low & NetOffloads.GuestBits)));
        var filters = _features.Has(VIRTIO_NET_F_CTRL_VLAN);
        if (_filter.FiltersVlans != filters)
            Volatile.Write(ref _filter, _filter with { FiltersVlans = filters });
    }
}
