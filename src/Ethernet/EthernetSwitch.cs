namespace Virtbus.Ethernet;

/// <summary>
/// A small learning switch with VLANs (IEEE 802.1Q). Its ports belong to lanes, one for each thread that works for some of them, or take frames on any
/// thread. Safe from any thread. Frames come from guests and are not trusted: the table of addresses is bounded, multicast sources are not learned,
/// and a frame whose offload data is nonsense goes nowhere. What a port's sink does not take of the offload data is done before it is given the frame.
/// </summary>
public sealed class EthernetSwitch
{
    /// <summary>How many addresses a switch knows.</summary>
    public const int MaxAddresses = 4096;

    /// <summary>How many of them a port has that a whole network is behind, among others: not to have the table for itself.</summary>
    public const int MaxAddressesOfNetwork = MaxAddresses / 4;

    private static readonly TimeSpan DefaultAge = TimeSpan.FromSeconds(300);
    private readonly Lock _lock = new();
    private readonly TimeProvider _time;
    private readonly AddressTable _addresses;
    private SwitchLane[] _lanes = [];
    // Those without a lane.
    private SwitchPort[] _free = [];

    /// <summary>Makes a switch without ports.</summary>
    /// <param name="time">The clock that addresses age by; the system's by default.</param>
    public EthernetSwitch(TimeProvider? time = null)
    {
        _time = time ?? TimeProvider.System;
        _addresses = new AddressTable(_time.TimestampFrequency);
        AddressAge = DefaultAge;
    }

    /// <summary>How long an address is known that is not seen again: 300 s (IEEE 802.1Q, 8.8.3) when not set. More than nothing.</summary>
    public TimeSpan AddressAge
    {
        get;
        set
        {
            ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(value, TimeSpan.Zero);
            field = value;
            _addresses.MaxAge = (long)(value.TotalSeconds * _time.TimestampFrequency);
        }
    }

    /// <summary>All ports at this moment.</summary>
    public IReadOnlyList<SwitchPort> Ports => [.. Volatile.Read(ref _lanes).SelectMany(l => l.Ports), .. Volatile.Read(ref _free)];

    /// <summary>The clock, in its own units.</summary>
    internal long Now => _time.GetTimestamp();

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
        }
        _addresses.ForgetGone();
    }

    /// <summary>Forgets the addresses that were seen at a port that stays, as a bridge does whose cable is pulled: another one's are behind it. Any thread.</summary>
    /// <param name="port">The port; what is sent by it after that is learned anew, by a batch that is under way with the next one.</param>
    public void Forget(SwitchPort port)
    {
        ArgumentNullException.ThrowIfNull(port);
        _addresses.Forget(port);
    }

    /// <summary>Switches a frame that came in by a port; on the thread of the batch.</summary>
    /// <returns>False for one that was dropped where it came in.</returns>
    internal bool Forward(SwitchBatch batch, SwitchPort from, in EthernetFrame frame)
    {
        if (!SwitchedFrame.TryRead(frame, from.AccessVlan, out var switched))
        {
            from.CountMalformed();
            return false;
        }
        if (!switched.MayLeaveBy(from.AccessVlan))
        {
            from.CountFiltered();
            return false;
        }
        if (!EthernetFrame.IsMulticast(switched.Source) && !from.IsGone)
            batch.Learn(_addresses, switched.Source, switched.Vlan, from);
        if (Find(batch, switched) is { } to)
        {
            if (to != from)
                SendOne(batch, from, to, switched);
            return true;
        }
        foreach (var port in Volatile.Read(ref _free))
        {
            if (port != from && switched.MayLeaveBy(port.AccessVlan))
                batch.Send(port, switched);
        }
        if (batch.Lane is { } lane)
        {
            foreach (var port in lane.Ports)
            {
                if (port != from && switched.MayLeaveBy(port.AccessVlan))
                    batch.Send(port, switched);
            }
        }
        foreach (var other in Volatile.Read(ref _lanes))
        {
            var ports = other.Ports;
            if (other == batch.Lane || ports.Length == 0 || other.TryAccept(switched))
                continue;
            foreach (var port in ports)
            {
                if (switched.MayLeaveBy(port.AccessVlan))
                    port.Sink.Miss();
            }
        }
        return true;
    }

    /// <summary>Hands a frame of another lane to the ports of this one that it is for; on the lane's thread.</summary>
    internal void Distribute(SwitchBatch batch, SwitchLane lane, in EthernetFrame frame)
    {
        // It was looked at where it came in, but its sender may have changed it before it was copied.
        if (!SwitchedFrame.TryRead(frame, 0, out var switched))
            return;
        if (Find(batch, switched) is { } to)
        {
            if (to.Lane == lane && switched.MayLeaveBy(to.AccessVlan))
                batch.Send(to, switched);
            return;
        }
        foreach (var port in lane.Ports)
        {
            if (switched.MayLeaveBy(port.AccessVlan))
                batch.Send(port, switched);
        }
    }

    private static void SendOne(SwitchBatch batch, SwitchPort from, SwitchPort to, in SwitchedFrame frame)
    {
        if (!frame.MayLeaveBy(to.AccessVlan))
            return;
        if (to.Lane is null || to.Lane == batch.Lane)
        {
            batch.Remember(from, to, frame);
            batch.Send(to, frame);
        }
        else if (!to.Lane.TryAccept(frame))
            to.Sink.Miss();
    }

    // The port that an address was seen at; null for all.
    private SwitchPort? Find(SwitchBatch batch, in SwitchedFrame frame) =>
        EthernetFrame.IsMulticast(frame.Destination) ? null : batch.Find(_addresses, frame.Destination, frame.Vlan);
}
