using Virtbus.Ethernet;

namespace Virtbus.Tests.Ethernet;

/// <summary>The switch by itself: learning, floods, lanes, batches, and offload data that goes with its frame.</summary>
public sealed class EthernetSwitchTests
{
    private const ulong Everyone = 0xFFFFFFFFFFFF;
    private readonly EthernetSwitch _switch = new();
    private int _arrivals;

    [Fact]
    public void Port_that_fails_is_told_of_at_the_end_and_the_others_get_the_frame()
    {
        var switching = new EthernetSwitch();
        var (broken, whole) = (new KeepingSink { Delivered = static _ => throw new InvalidOperationException("a bug") }, new KeepingSink());
        var from = new SwitchPort(new KeepingSink());
        foreach (var port in new[] { from, new SwitchPort(broken), new SwitchPort(whole) })
            switching.Join(port);
        var batch = new SwitchBatch(switching);
        var frame = new byte[60];
        frame.AsSpan(0, 6).Fill(0xFF);
        batch.Forward(from, new EthernetFrame(frame));
        var told = new List<(IFrameSink, string)>();
        batch.End((sink, exception) => told.Add((sink, exception.Message)));
        Assert.Equal((broken, "a bug"), Assert.Single(told));
        Assert.Single(whole.Frames);
        // Once.
        batch.End((sink, exception) => told.Add((sink, exception.Message)));
        Assert.Single(told);
    }

    [Fact]
    public void Frame_goes_where_its_destination_was_seen_and_else_to_all_others()
    {
        var lane = _switch.AddLane(() => _arrivals++);
        var sinks = Enumerable.Range(0, 3).Select(_ => new Sink()).ToArray();
        var ports = sinks.Select(s => Join(lane, s)).ToArray();
        lane.Forward(ports[0], Frame(Everyone, 0x020000000001));
        Assert.Equal((0, 1, 1), (sinks[0].Count, sinks[1].Count, sinks[2].Count));
        lane.Forward(ports[1], Frame(0x020000000001, 0x020000000002));
        Assert.Equal((1, 1, 1), (sinks[0].Count, sinks[1].Count, sinks[2].Count));
        // To a port's own address: it has it already.
        lane.Forward(ports[0], Frame(0x020000000001, 0x020000000001));
        Assert.Equal(1, sinks[0].Count);
        // A group is no sender: nothing is learned from it.
        lane.Forward(ports[2], Frame(0x020000000001, 0x010000000009));
        lane.Forward(ports[0], Frame(0x010000000009, 0x020000000001));
        Assert.Equal((2, 2, 2), (sinks[0].Count, sinks[1].Count, sinks[2].Count));
        Assert.Equal(0, _arrivals);
    }

    [Fact]
    public void Port_that_left_gets_nothing_and_its_address_is_forgotten()
    {
        var lane = _switch.AddLane(static () => { });
        var (first, second, third) = (new Sink(), new Sink(), new Sink());
        var (a, b, _) = (Join(lane, first), Join(lane, second), Join(lane, third));
        lane.Forward(b, Frame(Everyone, 2));
        _switch.Leave(b);
        Assert.True(b.IsGone);
        lane.Forward(a, Frame(2, 1));
        Assert.Equal((0, 2), (second.Count, third.Count));
        Assert.Equal(2, _switch.Ports.Count);
    }

    [Fact]
    public void Addresses_that_are_learned_are_bounded_and_those_that_are_known_stay()
    {
        const ulong First = 0x020000000000;
        const ulong OneMore = 0x02000000FFFF;
        var lane = _switch.AddLane(static () => { });
        var (first, second, third) = (new Sink(), new Sink(), new Sink());
        var (a, b, c) = (Join(lane, first), Join(lane, second), Join(lane, third));
        for (ulong i = 0; i < 4096; i++)
            lane.Forward(a, Frame(Everyone, First + i));
        lane.Forward(b, Frame(Everyone, OneMore));
        // There is no room for it, so what goes there goes to all. A group is no sender: asking teaches nothing.
        Assert.Equal((1, 1), Reach(OneMore));
        Assert.Equal((1, 0), Reach(First + 4095));
        // One that is known may move all the same.
        lane.Forward(b, Frame(Everyone, First));
        Assert.Equal((0, 1), Reach(First));
        // Those of a port that leaves make room.
        _switch.Leave(a);
        lane.Forward(b, Frame(Everyone, OneMore));
        var before = third.Count;
        lane.Forward(b, Frame(First + 4095, Everyone));
        Assert.Equal(before + 1, third.Count);
        Assert.Equal((0, 1), Reach(OneMore));

        (int, int) Reach(ulong address)
        {
            var (one, two) = (first.Count, second.Count);
            lane.Forward(c, Frame(address, Everyone));
            return (first.Count - one, second.Count - two);
        }
    }

    [Fact]
    public void Frame_waits_for_the_thread_of_the_other_lane_with_its_offload_data()
    {
        var here = _switch.AddLane(static () => { });
        var there = _switch.AddLane(() => _arrivals++);
        var sink = new Sink();
        var from = Join(here, new Sink());
        Join(there, sink);
        var sent = new TransportFrame(IsV6: false, IsTcp: true);
        var offload = sent.Offload with { Segmentation = SegmentationType.TcpV4 | SegmentationType.Ecn };
        sink.Takes = OffloadKinds.All;
        here.Forward(from, new EthernetFrame(sent.Build(), offload));
        Assert.Equal((1, 0), (_arrivals, sink.Count));
        Assert.False(there.TakeInbound());
        Assert.Equal((1, offload), (sink.Count, sink.Last));
        Assert.False(offload.IsNone);
    }

    [Fact]
    public void Lane_that_stands_still_loses_what_does_not_fit_and_its_ports_hear_of_it()
    {
        var here = _switch.AddLane(static () => { });
        var there = _switch.AddLane(static () => { });
        var sink = new Sink();
        var from = Join(here, new Sink());
        Join(there, sink);
        for (var i = 0; i < 300; i++)
            here.Forward(from, Frame(Everyone, 1));
        Assert.Equal((0, 300 - 256), (sink.Count, sink.Missed));
        there.TakeInbound();
        Assert.Equal(256, sink.Count);
    }

    [Fact]
    public void Batch_flushes_each_touched_port_once_and_the_next_ones_after_a_failure()
    {
        var lane = _switch.AddLane(static () => { });
        var (bad, good) = (new Sink { Fails = true }, new Sink());
        var (a, b) = (Join(lane, bad), Join(lane, good));
        lane.Touch(a);
        lane.Touch(b);
        lane.Touch(b);
        var failed = new List<IFrameSink>();
        lane.EndBatch((sink, _) => failed.Add(sink));
        lane.EndBatch((sink, _) => failed.Add(sink));
        Assert.Equal([bad], failed);
        Assert.Equal(1, good.Flushes);
    }

    [Fact]
    public void Port_without_a_lane_is_flushed_once_at_the_end_of_each_batch_that_brought_it_frames()
    {
        var (first, second) = (new KeepingSink(), new KeepingSink());
        var (from, a, b) = (new SwitchPort(new KeepingSink()), new SwitchPort(first), new SwitchPort(second));
        var batch = new SwitchBatch(_switch);
        foreach (var port in (SwitchPort[])[from, a, b])
            _switch.Join(port);
        for (var round = 1; round <= 3; round++)
        {
            for (var i = 0; i < 4; i++)
                Assert.True(batch.Forward(from, Frame(Everyone, 1)));
            Assert.Equal((round - 1, round - 1), (first.Flushes, second.Flushes));
            batch.End(static (_, exception) => throw exception);
            Assert.Equal((round, round, 4 * round), (first.Flushes, second.Flushes, second.Frames.Count));
        }

        // One that leaves in between has what it was given, and is flushed for that, and never again.
        batch.Forward(from, Frame(Everyone, 1));
        _switch.Leave(a);
        batch.End(static (_, exception) => throw exception);
        batch.Forward(from, Frame(Everyone, 1));
        batch.End(static (_, exception) => throw exception);
        Assert.Equal((4, 5), (first.Flushes, second.Flushes));
        Assert.Equal((13, 14), (first.Frames.Count, second.Frames.Count));
    }

    [Theory]
    [InlineData(13, false)]
    [InlineData(14, true)]
    [InlineData(9022, true)]
    [InlineData(9023, false)]
    public void Ring_takes_lengths_that_ethernet_has(int length, bool taken)
    {
        var ring = new FrameRing(2);
        Assert.Equal(taken, ring.TryWrite(new EthernetFrame(new byte[length])));
        Assert.Equal(!taken, ring.IsEmpty);
    }

    [Fact]
    public void Frame_between_ports_allocates_nothing()
    {
        var here = _switch.AddLane(static () => { });
        var there = _switch.AddLane(static () => { });
        var from = Join(here, new Sink());
        Join(here, new Sink());
        Join(there, new Sink());
        var bytes = Bytes(Everyone, 1);
        for (var round = 0; round < 2; round++)
        {
            var before = GC.GetAllocatedBytesForCurrentThread();
            for (var i = 0; i < 1000; i++)
            {
                here.Forward(from, new EthernetFrame(bytes));
                there.TakeInbound();
            }
            if (round == 1)
                Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
        }
    }

    private static SwitchPort Join(SwitchLane lane, Sink sink)
    {
        var port = new SwitchPort(lane, sink);
        lane.Join(port);
        return port;
    }

    private static EthernetFrame Frame(ulong destination, ulong source) => new(Bytes(destination, source));

    private static byte[] Bytes(ulong destination, ulong source)
    {
        var bytes = new byte[60];
        for (var i = 0; i < 6; i++)
            (bytes[i], bytes[6 + i]) = ((byte)(destination >> (40 - (8 * i))), (byte)(source >> (40 - (8 * i))));
        return bytes;
    }

    private sealed class Sink : IFrameSink
    {
        public int Count { get; private set; }

        public int Missed { get; private set; }

        public int Flushes { get; private set; }

        public bool Fails { get; init; }

        public FrameOffload Last { get; private set; }

        public OffloadKinds Takes { get; set; }

        public void Deliver(in EthernetFrame frame)
        {
            Count++;
            Last = frame.Offload;
        }

        public void Miss() => Missed++;

        public void Flush()
        {
            Flushes++;
            if (Fails)
                throw new InvalidOperationException("as asked");
        }
    }
}
