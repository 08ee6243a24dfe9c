namespace Virtbus.Ethernet;

/// <summary>
/// The ports of a switch that one thread works for. Frames between two of them go straight; those from ports of other lanes wait in a bounded
/// queue, so a lane that stands still holds up no other. The thread is its owner's: all calls come from it, but for those that say otherwise.
/// </summary>
public sealed class SwitchLane
{
    private const int InboundDepth = 256;
    private readonly EthernetSwitch _owner;
    private readonly Action _arrived;
    private readonly Lock _lock = new();
    private readonly Lock _producers = new();
    private readonly SwitchBatch _batch;
    private SwitchPort[] _ports = [];
    private FrameRing? _inbound;

    internal SwitchLane(EthernetSwitch owner, Action arrived)
    {
        _owner = owner;
        _arrived = arrived;
        _batch = new SwitchBatch(owner, this);
    }

    /// <summary>The ports; a copy of the moment, not to be changed.</summary>
    internal SwitchPort[] Ports => Volatile.Read(ref _ports);

    /// <summary>Puts a port on the switch. Any thread.</summary>
    /// <param name="port">One of this lane.</param>
    public void Join(SwitchPort port)
    {
        lock (_lock)
            Volatile.Write(ref _ports, [.. _ports, port]);
    }

    /// <summary>Switches a frame that came in by a port of this lane.</summary>
    /// <param name="from">The port.</param>
    /// <param name="frame">The frame; valid by its length (<see cref="EthernetFrame.IsValid"/>).</param>
    public void Forward(SwitchPort from, in EthernetFrame frame) => _batch.Forward(from, frame);

    /// <summary>Hands on what other lanes sent until now.</summary>
    /// <param name="most">How many frames at most.</param>
    /// <returns>Whether there may be more.</returns>
    public bool TakeInbound(int most = InboundDepth)
    {
        for (var frames = Volatile.Read(ref _inbound); most > 0; most--)
        {
            if (frames is null || !frames.TryPeek(out var frame))
                return false;
            _owner.Distribute(_batch, this, frame);
            frames.Release();
        }
        return true;
    }

    /// <summary>Has a port's <see cref="IFrameSink.Flush"/> called at the end of the batch.</summary>
    /// <param name="port">One of this lane.</param>
    public void Touch(SwitchPort port) => _batch.Touch(port);

    /// <summary>Ends a batch: flushes the ports that were touched in it.</summary>
    /// <param name="failed">Told of a bug of this program in a port; the others are flushed all the same.</param>
    public void EndBatch(Action<IFrameSink, Exception> failed) => _batch.End(failed);

    /// <summary>Takes a frame of another lane in, for the ports of this one. Any thread. Its VLAN goes with it, as its tag.</summary>
    /// <returns>False when too many wait: it is lost, as in any switch.</returns>
    internal bool TryAccept(in SwitchedFrame frame)
    {
        var edit = frame.EditFor(accessVlan: 0);
        var source = frame.Frame;
        lock (_producers)
        {
            _inbound ??= new FrameRing(InboundDepth);
            if (!_inbound.TryReserve(source.Length + edit.Growth, edit.Adjust(source.Offload), out var place))
                return false;
            edit.CopyTo(source.Bytes, place);
            _inbound.Commit();
        }
        _arrived();
        return true;
    }

    internal void Leave(SwitchPort port)
    {
        lock (_lock)
            Volatile.Write(ref _ports, [.. _ports.Where(p => p != port)]);
    }
}
