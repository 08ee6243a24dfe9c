namespace Virtbus.Ethernet;

/// <summary>
/// What a thread keeps while it switches frames: which ports were given some, and are to be told at the batch's end. One thread uses it at a time.
/// </summary>
public sealed class SwitchBatch
{
    private readonly EthernetSwitch _owner;
    private readonly SwitchLane? _lane;
    private readonly List<SwitchPort> _touched = [];

    /// <summary>Makes one for a thread that works for ports without a lane.</summary>
    /// <param name="owner">The switch.</param>
    public SwitchBatch(EthernetSwitch owner)
        : this(owner, lane: null)
    {
    }

    internal SwitchBatch(EthernetSwitch owner, SwitchLane? lane)
    {
        ArgumentNullException.ThrowIfNull(owner);
        _owner = owner;
        _lane = lane;
    }

    /// <summary>The lane whose thread uses it; null when it is another thread.</summary>
    internal SwitchLane? Lane => _lane;

    /// <summary>Switches a frame that came in by a port.</summary>
    /// <param name="from">The port: of the lane, or without a lane.</param>
    /// <param name="frame">The frame; valid by its length (<see cref="EthernetFrame.IsValid"/>).</param>
    public void Forward(SwitchPort from, in EthernetFrame frame) => _owner.Forward(this, from, frame);

    /// <summary>Ends a batch: flushes the ports that were touched in it.</summary>
    /// <param name="failed">Told of a bug of this program in a port; the others are flushed all the same.</param>
    public void End(Action<IFrameSink, Exception> failed)
    {
        // By index: an interrupt's handler may make another port's turn end here.
        for (var i = 0; i < _touched.Count; i++)
        {
            var port = _touched[i];
            port.IsTouched = false;
            try
            {
                port.Sink.Flush();
            }
            catch (Exception exception)
            {
                failed(port.Sink, exception);
            }
        }
        _touched.Clear();
    }

    internal void Touch(SwitchPort port)
    {
        if (port.IsTouched)
            return;
        port.IsTouched = true;
        _touched.Add(port);
    }

    /// <summary>Gives a frame to a port that takes it on any thread. Others may touch it at the same time, so the port has no mark.</summary>
    internal void Deliver(SwitchPort port, in EthernetFrame frame)
    {
        port.Sink.Deliver(frame);
        for (var i = _touched.Count - 1; i >= 0; i--)
        {
            if (_touched[i] == port)
                return;
        }
        _touched.Add(port);
    }
}
