namespace Virtbus.Ethernet;

/// <summary>What frames go in and out by. On the switch from its joining to <see cref="EthernetSwitch.Leave"/>.</summary>
public sealed class SwitchPort
{
    /// <summary>The highest VLAN that a port may be of (IEEE 802.1Q, 9.6).</summary>
    public const int MaxVlan = VlanTag.MaxId;

    private bool _gone;
    private long _malformed;
    private long _filtered;

    /// <summary>Makes a port whose sink is called on the thread of a lane only.</summary>
    /// <param name="lane">The lane; the same one as long as the port lives.</param>
    /// <param name="sink">What lies behind it.</param>
    public SwitchPort(SwitchLane lane, IFrameSink sink)
        : this(sink)
    {
        ArgumentNullException.ThrowIfNull(lane);
        Lane = lane;
    }

    /// <summary>Makes a port whose sink takes frames on any thread, several at the same time. On the switch from <see cref="EthernetSwitch.Join"/> on.</summary>
    /// <param name="sink">What lies behind it.</param>
    public SwitchPort(IFrameSink sink)
    {
        ArgumentNullException.ThrowIfNull(sink);
        Sink = sink;
    }

    /// <summary>What it is called where it is shown: the name of the device, or of the host's interface, behind it. Empty for one that nobody looks at.</summary>
    public string Name { get; init; } = "";

    /// <summary>The lane whose thread works for it; null for a port whose sink takes frames on any thread.</summary>
    public SwitchLane? Lane { get; }

    /// <summary>What lies behind it.</summary>
    public IFrameSink Sink { get; }

    /// <summary>
    /// The VLAN that the port gives access to, 1 to 4094; 0 for a trunk, by which all frames go as they are and those without a tag are of no VLAN.
    /// At one of access, frames come and go without a tag. One that comes with a tag of this VLAN, or of none (a priority), is taken as if it had none;
    /// one of another VLAN is dropped (IEEE 802.1Q, 8.6.2). Tags of services (type 0x88A8) are payload.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">More than 4094.</exception>
    public ushort AccessVlan
    {
        get;
        init
        {
            ArgumentOutOfRangeException.ThrowIfGreaterThan(value, MaxVlan);
            field = value;
        }
    }

    /// <summary>
    /// How many addresses are learned at the port at most; as many as a switch knows when nothing is said. A port's that is one guest's has fewer, or that
    /// guest could have all.
    /// </summary>
    public int MaxAddresses { get; init; } = EthernetSwitch.MaxAddresses;

    /// <summary>Frames that came in by the port and were dropped: their length or their offload data was nonsense. Any thread.</summary>
    public long Malformed => Interlocked.Read(ref _malformed);

    /// <summary>Frames that came in by the port and were dropped: they were of another VLAN. Any thread.</summary>
    public long Filtered => Interlocked.Read(ref _filtered);

    /// <summary>Whether the port was taken off the switch. Any thread.</summary>
    public bool IsGone
    {
        get => Volatile.Read(ref _gone);
        internal set => Volatile.Write(ref _gone, value);
    }

    /// <summary>Whether the port waits for the end of the batch; the lane's mark.</summary>
    internal bool IsTouched { get; set; }

    /// <summary>How many addresses were learned at it; under the lock of the table.</summary>
    internal int Learned { get; set; }

    internal void CountMalformed() => Interlocked.Increment(ref _malformed);

    internal void CountFiltered() => Interlocked.Increment(ref _filtered);
}
