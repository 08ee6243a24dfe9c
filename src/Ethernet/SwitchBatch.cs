namespace Virtbus.Ethernet;

/// <summary>
/// What a thread keeps while it switches frames: which ports were given some, and are to be told at the batch's end, and the memory that frames are
/// made ready in. One thread uses it at a time.
/// </summary>
public sealed class SwitchBatch
{
    // What a batch may cost, whatever is cut for however many ports: a few milliseconds. Who comes behind that misses the frame.
    internal const int MostPieces = 32 << 10;
    private readonly EthernetSwitch _owner;
    private readonly SwitchLane? _lane;
    private readonly List<SwitchPort> _touched = [];
    // Those of them without a lane.
    private readonly HashSet<SwitchPort> _marked = [];
    // Bugs of this program that were met, told of at the end.
    private List<(IFrameSink Sink, Exception Exception)>? _failures;
    private byte[] _scratch = [];
    private int _pieces;
    private long _now;
    private bool _knowsTime;
    // The address that was learned last, and where, and the one that was found last, and where: those of a flow come again and again.
    private ulong _learned;
    private SwitchPort? _learnedAt;
    private ulong _found;
    private SwitchPort? _foundAt;

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

    /// <summary>When the batch began, by the switch's clock.</summary>
    internal long Now
    {
        get
        {
            if (!_knowsTime)
            {
                _now = _owner.Now;
                _knowsTime = true;
            }
            return _now;
        }
    }

    /// <summary>Pieces that frames were cut into since the last end: what the batch costs beyond its frames.</summary>
    public int Pieces => _pieces;

    /// <summary>Switches a frame that came in by a port.</summary>
    /// <param name="from">The port: of the lane, or without a lane.</param>
    /// <param name="frame">The frame; one that is not valid, or of another VLAN than the port's, is counted at the port and dropped.</param>
    /// <returns>Whether the switch took it; who it was for may still lose it.</returns>
    public bool Forward(SwitchPort from, in EthernetFrame frame)
    {
        ArgumentNullException.ThrowIfNull(from);
        return _owner.Forward(this, from, frame);
    }

    /// <summary>Ends a batch: flushes the ports that were touched in it.</summary>
    /// <param name="failed">Told of bugs of this program in ports, whether of the delivery of a frame or of the flush; the others get theirs all the same.</param>
    public void End(Action<IFrameSink, Exception> failed)
    {
        _knowsTime = false;
        _pieces = 0;
        _learnedAt = null;
        _foundAt = null;
        // By index: an interrupt's handler may make another port's turn end here.
        for (var i = 0; i < _touched.Count; i++)
        {
            var port = _touched[i];
            if (port.Lane is null)
                _marked.Remove(port);
            else
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
        if (_failures is not { } failures)
            return;
        _failures = null;
        foreach (var (sink, exception) in failures)
            failed(sink, exception);
    }

    /// <summary>Notes where an address was seen, once a batch as long as no other one comes.</summary>
    internal void Learn(AddressTable addresses, ulong address, ushort vlan, SwitchPort port)
    {
        var key = AddressTable.Key(address, vlan);
        if (_learnedAt == port && _learned == key)
            return;
        addresses.Learn(address, vlan, port, Now);
        (_learned, _learnedAt, _foundAt) = (key, port, null);
    }

    /// <summary>Looks an address up; one that moves on another thread is found where it was until the batch ends.</summary>
    internal SwitchPort? Find(AddressTable addresses, ulong address, ushort vlan)
    {
        var key = AddressTable.Key(address, vlan);
        if (_foundAt is { IsGone: false } port && _found == key)
            return port;
        (_found, _foundAt) = (key, addresses.Find(address, vlan, Now));
        return _foundAt;
    }

    internal void Touch(SwitchPort port)
    {
        if (port.IsTouched)
            return;
        port.IsTouched = true;
        _touched.Add(port);
    }

    /// <summary>Gives a frame to a port: of the lane, or one that takes it on any thread. What its sink does not take is done before.</summary>
    internal void Send(SwitchPort to, in SwitchedFrame frame)
    {
        var edit = frame.EditFor(to.AccessVlan);
        var lacks = frame.Needs == OffloadKinds.None ? OffloadKinds.None : frame.Needs & ~to.Sink.Takes;
        try
        {
            if (edit.IsNone && lacks == OffloadKinds.None)
                to.Sink.Deliver(frame.Frame);
            else
                SendReady(to, frame.Frame, edit, lacks);
        }
        catch (Exception exception)
        {
            // Not the sender's fault, and not the others'.
            (_failures ??= []).Add((to.Sink, exception));
        }
        // Others may touch one without a lane at the same time, so that it has no mark of its own.
        if (to.Lane is null && (_touched.Count == 0 || _touched[^1] != to) && _marked.Add(to))
            _touched.Add(to);
    }

    private void SendReady(SwitchPort to, in EthernetFrame frame, in TagEdit edit, OffloadKinds lacks)
    {
        var isCut = lacks != OffloadKinds.None && frame.Offload.Segmentation != SegmentationType.None;
        if (isCut && _pieces >= MostPieces)
        {
            to.Sink.Miss();
            return;
        }
        var length = isCut ? FrameCutter.BufferSize : frame.Length + edit.Growth;
        // Taken out while a sink is given what lies in it: should that sink send on this batch, the frame stays whole.
        var scratch = _scratch;
        _scratch = [];
        if (scratch.Length < length)
            scratch = new byte[length <= EthernetFrame.MaxLength ? EthernetFrame.MaxLength : EthernetFrame.MaxUncutLength];
        if (FrameFinisher.TryBegin(frame, edit, lacks, scratch, out var finisher))
        {
            while (finisher.TryNext(out var ready))
            {
                if (isCut)
                    _pieces++;
                to.Sink.Deliver(ready);
            }
        }

        _scratch = scratch;
    }
}
