namespace Virtbus.Ethernet;

/// <summary>What frames go in and out by. On the switch from its joining to <see cref="EthernetSwitch.Leave"/>.</summary>
public sealed class SwitchPort
{
    private bool _gone;

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

    /// <summary>The lane whose thread works for it; null for a port whose sink takes frames on any thread.</summary>
    public SwitchLane? Lane { get; }

    /// <summary>What lies behind it.</summary>
    public IFrameSink Sink { get; }

    /// <summary>Whether the port was taken off the switch. Any thread.</summary>
    public bool IsGone
    {
        get => Volatile.Read(ref _gone);
        internal set => Volatile.Write(ref _gone, value);
    }

    /// <summary>Whether the port waits for the end of the batch; the lane's mark.</summary>
    internal bool IsTouched { get; set; }
}
