using System.Buffers.Binary;

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
    // The frame before had these addresses and this type, and went from one port to another as it was: the next one that has them goes the same way.
    private ulong _sameStart;
    private ulong _sameEnd;
    private SwitchPort? _sameFrom;
    private SwitchPort? _sameTo;

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
        if (_sameTo is { IsGone: false } to && from == _sameFrom && IsSame(frame))
        {
            Deliver(to, frame);
            return true;
        }
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
        _sameTo = null;
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
        (_learned, _learnedAt, _foundAt, _sameTo) = (key, port, null, null);
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
        if (edit.IsNone && lacks == OffloadKinds.None)
        {
            Deliver(to, frame.Frame);
            return;
        }
        try
        {
            SendReady(to, frame.Frame, edit, lacks);
        }
        catch (Exception exception)
        {
            Note(to, exception);
        }
        Mark(to);
    }

    /// <summary>A frame went to one port: the next one like it need not be looked at.</summary>
    internal void Remember(SwitchPort from, SwitchPort to, in SwitchedFrame frame)
    {
        _sameTo = null;
        if (frame.IsTagged || !frame.Frame.Offload.IsNone || !frame.EditFor(to.AccessVlan).IsNone)
            return;
        var bytes = frame.Frame.Bytes;
        (_sameStart, _sameEnd) = (StartOf(bytes), EndOf(bytes));
        (_sameFrom, _sameTo) = (from, to);
    }

    // A header's 14 bytes, as two words that overlap.
    private static ulong StartOf(ReadOnlySpan<byte> header) => BinaryPrimitives.ReadUInt64LittleEndian(header);

    private static ulong EndOf(ReadOnlySpan<byte> header) => BinaryPrimitives.ReadUInt64LittleEndian(header[(EthernetFrame.MinLength - sizeof(ulong))..]);

    // With a tag that a port may put in, it is not too long.
    private bool IsSame(in EthernetFrame frame) =>
        frame.Length is >= EthernetFrame.MinLength and <= EthernetFrame.MaxLength - VlanTag.Length
        && StartOf(frame.Bytes) == _sameStart && EndOf(frame.Bytes) == _sameEnd && frame.Offload.IsNone;

    private void Deliver(SwitchPort to, in EthernetFrame frame)
    {
        try
        {
            to.Sink.Deliver(frame);
        }
        catch (Exception exception)
        {
            Note(to, exception);
        }
        Mark(to);
    }

    // Not the sender's fault, and not the others'.
    private void Note(SwitchPort to, Exception exception) => (_failures ??= []).Add((to.Sink, exception));

    // Others may touch one without a lane at the same time, so that it has no mark of its own.
    private void Mark(SwitchPort to)
    {
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
