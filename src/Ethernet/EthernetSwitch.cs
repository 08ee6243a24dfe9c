namespace Virtbus.Ethernet;

/// <summary>
/// A small learning switch. Its ports belong to lanes, one for each thread that works for some of them, or take frames on any thread. Safe from any
/// thread. Frames come from guests and are not trusted: the table of addresses is bounded, and multicast sources are not learned.
/// </summary>
public sealed class EthernetSwitch
{
    private const int MaxAddresses = 4096;
    private readonly Lock _lock = new();
    private readonly Dictionary<ulong, SwitchPort> _learned = [];
    private SwitchLane[] _lanes = [];
    // Those without a lane.
    private SwitchPort[] _free = [];

    /// <summary>All ports at this moment.</summary>
    public IReadOnlyList<SwitchPort> Ports => [.. Volatile.Read(ref _lanes).SelectMany(l => l.Ports), .. Volatile.Read(ref _free)];

    /// <summary>Makes a lane.</summary>
    /// <param name="arrived">Told on any thread, under no lock, that frames of other lanes wait; <see cref="SwitchLane.TakeInbound"/> hands them on.</param>
    public SwitchLane AddLane(Action arrived)
    {
        ArgumentNullException.ThrowIfNull(arrived);
        var lane = new SwitchLane(this, arrived);
        lock (_lock)
            Volatile.Write(ref _lanes, [.. _lanes, lane]);
        return lane;
    }

    /// <summary>Takes a lane out that has no port any more.</summary>
    /// <param name="lane">The lane.</param>
    public void RemoveLane(SwitchLane lane)
    {
        lock (_lock)
            Volatile.Write(ref _lanes, [.. _lanes.Where(l => l != lane)]);
    }

    /// <summary>Puts a port on that takes frames on any thread.</summary>
    /// <param name="port">One without a lane.</param>
    public void Join(SwitchPort port)
    {
        ArgumentNullException.ThrowIfNull(port);
        if (port.Lane is not null)
            throw new ArgumentException("A port of a lane joins by its lane.", nameof(port));
        lock (_lock)
            Volatile.Write(ref _free, [.. _free, port]);
    }

    /// <summary>Takes a port off, and forgets the addresses that were seen at it.</summary>
    /// <param name="port">The port; what is under way to it may still arrive, and its sink sees <see cref="SwitchPort.IsGone"/>.</param>
    public void Leave(SwitchPort port)
    {
        ArgumentNullException.ThrowIfNull(port);
        port.IsGone = true;
        port.Lane?.Leave(port);
        lock (_lock)
        {
            if (port.Lane is null)
                Volatile.Write(ref _free, [.. _free.Where(p => p != port)]);
            foreach (var (address, at) in _learned)
            {
                if (at.IsGone)
                    _learned.Remove(address);
            }
        }
    }

    /// <summary>Switches a frame that came in by a port; on the thread of the batch.</summary>
    internal void Forward(SwitchBatch batch, SwitchPort from, in EthernetFrame frame)
    {
        var lane = batch.Lane;
        if (Learn(from, frame) is { } to)
        {
            if (to == from)
                return;
            if (to.Lane is null)
                batch.Deliver(to, frame);
            else if (to.Lane == lane)
                to.Sink.Deliver(frame);
            else if (!to.Lane.TryAccept(frame))
                to.Sink.Miss();
            return;
        }
        foreach (var port in Volatile.Read(ref _free))
        {
            if (port != from)
                batch.Deliver(port, frame);
        }
        if (lane is not null)
        {
            foreach (var port in lane.Ports)
            {
                if (port != from)
                    port.Sink.Deliver(frame);
            }
        }
        foreach (var other in Volatile.Read(ref _lanes))
        {
            var ports = other.Ports;
            if (other == lane || ports.Length == 0 || other.TryAccept(frame))
                continue;
            foreach (var port in ports)
                port.Sink.Miss();
        }
    }

    /// <summary>Hands a frame of another lane to the ports of this one that it is for; on the lane's thread.</summary>
    internal void Distribute(SwitchLane lane, in EthernetFrame frame)
    {
        SwitchPort? to;
        lock (_lock)
            to = FindLocked(frame);
        if (to is not null)
        {
            if (to.Lane == lane)
                to.Sink.Deliver(frame);
            return;
        }
        foreach (var port in lane.Ports)
            port.Sink.Deliver(frame);
    }

    // Notes where a frame came from, and looks up where it goes to; null for all.
    private SwitchPort? Learn(SwitchPort from, in EthernetFrame frame)
    {
        var source = frame.Source;
        lock (_lock)
        {
            if (!EthernetFrame.IsMulticast(source) && !from.IsGone && (_learned.Count < MaxAddresses || _learned.ContainsKey(source)))
                _learned[source] = from;
            return FindLocked(frame);
        }
    }

    private SwitchPort? FindLocked(in EthernetFrame frame)
    {
        var destination = frame.Destination;
        return !EthernetFrame.IsMulticast(destination) && _learned.TryGetValue(destination, out var to) && !to.IsGone ? to : null;
    }
}
