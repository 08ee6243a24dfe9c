namespace Virtbus.Ethernet;

/// <summary>What frames go in and out by. On the switch from <see cref="SwitchLane.Join"/> to <see cref="EthernetSwitch.Leave"/>.</summary>
/// <param name="lane">The lane; the same one as long as the port lives.</param>
/// <param name="sink">What lies behind it.</param>
public sealed class SwitchPort(SwitchLane lane, IFrameSink sink)
{
    private bool _gone;

    /// <summary>The lane whose thread works for it.</summary>
    public SwitchLane Lane => lane;

    /// <summary>What lies behind it.</summary>
    public IFrameSink Sink => sink;

    /// <summary>Whether the port was taken off the switch. Any thread.</summary>
    public bool IsGone
    {
        get => Volatile.Read(ref _gone);
        internal set => Volatile.Write(ref _gone, value);
    }

    /// <summary>Whether the port waits for the end of the batch; the lane's mark.</summary>
    internal bool IsTouched { get; set; }
}
