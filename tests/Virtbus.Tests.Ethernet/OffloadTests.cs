using System.Buffers.Binary;
using FsCheck;
using FsCheck.Fluent;
using Virtbus.Ethernet;

namespace Virtbus.Tests.Ethernet;

/// <summary>What senders leave to do, and what the switch does of it for those who do not take it.</summary>
public sealed class OffloadTests
{
    private readonly EthernetSwitch _switch = new();
    private readonly SwitchBatch _batch;
    private readonly KeepingSink _sink = new();
    private readonly SwitchPort _from = new(new KeepingSink());

    public OffloadTests()
    {
        _batch = new SwitchBatch(_switch);
        _switch.Join(_from);
        _switch.Join(new SwitchPort(_sink));
    }

    public static TheoryData<bool, bool, int, int> Shapes => new(
        from v6 in new[] { false, true }
        from tcp in new[] { false, true }
        from tags in new[] { 0, 1, 2 }
        from options in new[] { 0, 8, 40 }
        select (v6, tcp, tags, options));

    [Theory]
    [MemberData(nameof(Shapes))]
    public void Uncut_frame_is_cut_for_who_takes_wire_frames_only(bool v6, bool tcp, int tags, int options)
    {
        var frame = new TransportFrame(v6, tcp, tags, options, Flags: 0x19);
        Forward(frame.Build(), frame.Offload);
        Assert.Equal(3, _sink.Frames.Count);
        Assert.Equal(0, _from.Malformed);
        Assert.Equal(new FrameOffload { HashReport = 3, Hash = 0xABCD }, _sink.Last);
        for (var i = 0; i < 3; i++)
        {
            frame.Check(_sink.Frames[i], i * 1400, i < 2 ? 1400 : 1200, i);
            if (tcp)
                Assert.Equal(i < 2 ? 0x10 : 0x19, _sink.Frames[i][frame.Transport + 13]);
            Assert.Equal(frame.Build().AsSpan(0, frame.Network + (v6 ? 4 : 2)), _sink.Frames[i].AsSpan(0, frame.Network + (v6 ? 4 : 2)));
        }
    }

    [Fact]
    public void What_is_cut_for_many_ports_has_a_bound()
    {
        var others = Enumerable.Range(0, 40).Select(static _ => new KeepingSink { Keeps = false }).ToList();
        var pieces = 0;
        foreach (var sink in others)
        {
            sink.Delivered = _ => pieces++;
            _switch.Join(new SwitchPort(sink));
        }
        var frame = new TransportFrame(IsV6: false, IsTcp: true);
        // Two bytes of payload a piece.
        Forward(frame.Build(), frame.Offload with { SegmentSize = 2 });
        Assert.InRange(pieces, 30_000, 36_000);
        Assert.NotEqual(0, others.Sum(static s => s.Missed));
        // The next batch has a bound of its own.
        pieces = 0;
        Forward(frame.Build(), frame.Offload);
        Assert.Equal(40 * 3, pieces);
    }

    [Fact]
    public void Congestion_is_told_by_the_first_segment_only()
    {
        var frame = new TransportFrame(IsV6: false, IsTcp: true, Flags: 0x98);
        var offload = frame.Offload with { Segmentation = SegmentationType.TcpV4 | SegmentationType.Ecn };
        _sink.Takes = OffloadKinds.Checksum | OffloadKinds.TcpV4;
        Forward(frame.Build(), offload);
        Assert.Equal([0x90, 0x10, 0x18], _sink.Frames.Select(f => (int)f[frame.Transport + 13]));
        _sink.Takes |= OffloadKinds.Ecn;
        Forward(frame.Build(), offload);
        Assert.Equal(offload, _sink.Last);
    }

    [Theory]
    [MemberData(nameof(Shapes))]
    public void Frame_passes_as_it_is_to_who_takes_it(bool v6, bool tcp, int tags, int options)
    {
        var frame = new TransportFrame(v6, tcp, tags, options);
        _sink.Takes = OffloadKinds.Checksum | frame.Kind;
        var bytes = frame.Build();
        Forward(bytes, frame.Offload);
        Assert.Equal(bytes, Assert.Single(_sink.Frames));
        Assert.Equal(frame.Offload, _sink.Last);
        // All but its own kind is no use to it.
        _sink.Takes = OffloadKinds.All & ~frame.Kind;
        Forward(bytes, frame.Offload);
        Assert.Equal(4, _sink.Frames.Count);
    }

    [Theory]
    [MemberData(nameof(Shapes))]
    public void Checksum_is_put_in_for_who_does_not_take_it_open(bool v6, bool tcp, int tags, int options)
    {
        var frame = new TransportFrame(v6, tcp, tags, options, Payload: 777);
        var offload = frame.Offload with { Segmentation = SegmentationType.None, SegmentSize = 0 };
        var bytes = frame.Build();
        Forward(bytes, offload);
        var put = Assert.Single(_sink.Frames);
        Assert.Equal(0xFFFF, TransportFrame.Sum(put.AsSpan(frame.Transport), frame.PseudoSum(put, put.Length - frame.Transport)));
        var place = frame.Transport + offload.ChecksumOffset;
        Assert.Equal(bytes[..place], put[..place]);
        Assert.Equal(bytes[(place + 2)..], put[(place + 2)..]);
        Assert.Equal(new FrameOffload { HashReport = 3, Hash = 0xABCD }, _sink.Last);
        _sink.Takes = OffloadKinds.Checksum;
        Forward(bytes, offload);
        Assert.Equal((2, offload), (_sink.Frames.Count, _sink.Last));
        Assert.Equal(bytes, _sink.Frames[1]);
    }

    [Theory]
    [InlineData(false, 0xFFFF)]
    [InlineData(true, 0)]
    public void Checksum_of_zero_has_its_other_form_in_udp_only(bool tcp, int expected)
    {
        var frame = new TransportFrame(IsV6: false, tcp, Payload: 20);
        var bytes = frame.Build();
        // The last word makes the sum all ones.
        bytes.AsSpan(bytes.Length - 2).Clear();
        BinaryPrimitives.WriteUInt16BigEndian(bytes.AsSpan(bytes.Length - 2), (ushort)~TransportFrame.Sum(bytes.AsSpan(frame.Transport), 0));
        Forward(bytes, frame.Offload with { Segmentation = SegmentationType.None });
        Assert.Equal(expected, BinaryPrimitives.ReadUInt16BigEndian(_sink.Frames[0].AsSpan(frame.Transport + frame.Offload.ChecksumOffset)));
    }

    [Fact]
    public void What_is_known_of_a_frame_passes()
    {
        var offload = new FrameOffload(FrameFlags.DataValid | FrameFlags.SegmentInfo, SegmentationType.None, 1, 2, 3, 4, 5, 6);
        Forward(new TransportFrame(false, true).Build(), offload);
        Assert.Equal(offload, _sink.Last);
        Assert.Equal(0, _from.Malformed);
    }

    [Fact]
    public void Offload_data_that_does_not_fit_its_frame_is_counted_at_the_sender_and_goes_nowhere()
    {
        var v4 = new TransportFrame(IsV6: false, IsTcp: true);
        var v6 = new TransportFrame(IsV6: true, IsTcp: true, Options: 16);
        var udp = new TransportFrame(IsV6: false, IsTcp: false);
        var whole = v4 with { Payload = 100 };
        var open = whole.Offload with { Segmentation = SegmentationType.None };
        var last = (ushort)(whole.Headers + whole.Payload - 2);
        (string Name, TransportFrame Frame, FrameOffload Offload, Action<byte[]>? Change)[] cases =
        [
            ("to be cut with its checksum closed", v4, v4.Offload with { Flags = FrameFlags.None }, null),
            ("to be cut and joined", v4, v4.Offload with { Flags = FrameFlags.NeedsChecksum | FrameFlags.SegmentInfo }, null),
            ("IPv6 as IPv4", v6, v6.Offload with { Segmentation = SegmentationType.TcpV4 }, null),
            ("IPv4 as IPv6", v4, v4.Offload with { Segmentation = SegmentationType.TcpV6 }, null),
            ("UDP as TCP", udp, udp.Offload with { Segmentation = SegmentationType.TcpV4, ChecksumOffset = 16 }, null),
            ("fragments", udp, udp.Offload with { Segmentation = SegmentationType.Udp }, null),
            ("UDP with congestion", udp, udp.Offload with { Segmentation = SegmentationType.UdpDatagrams | SegmentationType.Ecn }, null),
            ("congestion alone", v4, v4.Offload with { Segmentation = SegmentationType.Ecn }, null),
            ("unknown type", v4, v4.Offload with { Segmentation = (SegmentationType)0x20 }, null),
            ("no segment size", v4, v4.Offload with { SegmentSize = 0 }, null),
            ("too many segments", v4, v4.Offload with { SegmentSize = 1 }, null),
            ("segments too long", v4 with { Payload = 20000 }, v4.Offload with { SegmentSize = 9000 }, null),
            ("checksum elsewhere", v4, v4.Offload with { ChecksumOffset = 18 }, null),
            ("start in the IP header", v4, v4.Offload with { ChecksumStart = 30 }, null),
            ("start behind TCP's", v4, v4.Offload with { ChecksumStart = 38 }, null),
            ("start behind the end", v4, v4.Offload with { ChecksumStart = ushort.MaxValue }, null),
            ("start in the Ethernet header", v4, v4.Offload with { ChecksumStart = 0 }, null),
            ("IPv4 of version 5", v4, v4.Offload, f => f[14] = 0x55),
            ("short IPv4 header", v4, v4.Offload, f => f[14] = 0x44),
            ("another protocol", v4, v4.Offload, f => f[23] = 17),
            ("a fragment", v4, v4.Offload, f => f[20] = 0x20),
            ("a later fragment", v4, v4.Offload, f => f[21] = 1),
            ("short TCP header", v4, v4.Offload, f => f[v4.Transport + 12] = 0x40),
            ("IPv6 of version 4", v6, v6.Offload, f => f[14] = 0x40),
            ("fragment header", v6, v6.Offload, f => f[20] = 44),
            ("long extension header", v6, v6.Offload, f => f[55] = 200),
            ("short extension header", v6, v6.Offload, f => f[55] = 0),
            ("another protocol behind it", v6, v6.Offload, f => f[54] = 17),
            ("three tags", v4 with { Tags = 3 }, (v4 with { Tags = 3 }).Offload, null),
            ("longer than IP can be", v4 with { Payload = 65490 }, v4.Offload, null),
            ("open checksum behind the end", whole, open with { ChecksumStart = last, ChecksumOffset = 1 }, null),
            ("open checksum far behind the end", whole, open with { ChecksumStart = ushort.MaxValue, ChecksumOffset = ushort.MaxValue }, null),
            ("open checksum in the header", whole, open with { ChecksumStart = 13 }, null),
            ("open checksum in a tag", whole with { Tags = 1 }, open with { ChecksumStart = 17 }, null),
            ("too long for a wire", v4 with { Payload = 9000 }, default, null),
        ];
        _sink.Takes = OffloadKinds.All;
        for (var i = 0; i < cases.Length; i++)
        {
            var (name, frame, offload, change) = cases[i];
            var bytes = frame.Build();
            change?.Invoke(bytes);
            Forward(bytes, offload);
            Assert.True(_from.Malformed == i + 1 && _sink.Frames.Count == 0, name);
        }
        Forward(whole.Build(), open with { ChecksumStart = last, ChecksumOffset = 0 });
        Assert.Single(_sink.Frames);
    }

    [Fact]
    public void Longest_frames_are_cut_to_the_last_byte()
    {
        var frame = new TransportFrame(IsV6: false, IsTcp: true, Tags: 2, Options: 40, Payload: 65535 - 92, SegmentSize: 32);
        Forward(frame.Build(), frame.Offload);
        Assert.Equal((65535 - 92 + 31) / 32, _sink.Frames.Count);
        frame.Check(_sink.Frames[^1], frame.Payload / 32 * 32, frame.Payload % 32, frame.Payload / 32);
        var wide = new TransportFrame(IsV6: true, IsTcp: false, Tags: 2, Payload: 30000, SegmentSize: EthernetFrame.MaxLength - 22 - 48);
        Forward(wide.Build(), wide.Offload);
        Assert.Equal(EthernetFrame.MaxLength, _sink.Frames[^2].Length);
        var deep = new TransportFrame(IsV6: true, IsTcp: false, Options: 8912, Payload: 200, SegmentSize: 40);
        Forward(deep.Build(), deep.Offload);
        deep.Check(_sink.Frames[^1], 160, 40, 4);
    }

    [Fact]
    public void Frames_for_the_ports_of_a_lane_are_cut_on_its_thread()
    {
        var lane = _switch.AddLane(static () => { });
        var sink = new KeepingSink();
        lane.Join(new SwitchPort(lane, sink));
        var frame = new TransportFrame(IsV6: true, IsTcp: true);
        Forward(frame.Build(), frame.Offload);
        Assert.Empty(sink.Frames);
        lane.TakeInbound();
        Assert.Equal(3, sink.Frames.Count);
        frame.Check(sink.Frames[1], 1400, 1400, 1);
    }

    [Fact]
    public void Frame_that_changes_while_it_is_sent_stays_within_its_bounds()
    {
        // What lies in a guest's memory is the guest's: the first port's sink stands for it here, as it changes the headers before the second is given some.
        var frame = new TransportFrame(IsV6: false, IsTcp: true);
        var random = new Random(1);
        var bytes = frame.Build();
        var shared = bytes.ToArray();
        var second = new KeepingSink { Keeps = false };
        _switch.Join(new SwitchPort(second));
        _sink.Keeps = false;
        for (var i = 0; i < 5000; i++)
        {
            bytes.CopyTo(shared, 0);
            _sink.Delivered = _ => shared[random.Next(frame.Headers)] = (byte)random.Next(256);
            _batch.Forward(_from, new EthernetFrame(shared, frame.Offload));
        }
        Assert.Equal(0, _from.Malformed);
    }

    [Fact]
    public void Sink_that_sends_while_it_takes_a_piece_does_not_disturb_the_others()
    {
        var frame = new TransportFrame(IsV6: false, IsTcp: false);
        var bytes = frame.Build();
        var from = new SwitchPort(new KeepingSink());
        var isFirst = true;
        _switch.Join(from);
        // The batch has its memory already.
        Forward(bytes, frame.Offload);
        _sink.Frames.Clear();
        _sink.Delivered = _ =>
        {
            if (!isFirst)
                return;
            isFirst = false;
            var other = new TransportFrame(IsV6: true, IsTcp: true, Payload: 3000);
            _batch.Forward(from, new EthernetFrame(other.Build(), other.Offload));
        };
        Forward(bytes, frame.Offload);
        Assert.Equal(6, _sink.Frames.Count);
        frame.Check(_sink.Frames[^1], 2800, 1200, 2);
        frame.Check(_sink.Frames[^2], 1400, 1400, 1);
    }

    [Fact]
    public void Any_sum_is_that_of_the_plain_loop() => Prop.ForAll(
        ArbMap.Default.ArbFor<byte[]>(),
        ArbMap.Default.ArbFor<byte>(),
        (bytes, repeats) =>
        {
            byte[] all = [.. Enumerable.Repeat(bytes, repeats).SelectMany(b => b)];
            var expected = TransportFrame.Sum(all, 0);
            return InternetChecksum.Sum(all) == expected && InternetChecksum.Of(all) == (ushort)~expected;
        }).QuickCheckThrowOnFailure();

    [Fact]
    public void Sum_carries_as_often_as_it_must()
    {
        for (var length = 0; length < 200; length++)
        {
            var bytes = new byte[length];
            bytes.AsSpan().Fill(0xFF);
            Assert.Equal(TransportFrame.Sum(bytes, 0), InternetChecksum.Sum(bytes));
        }
        // The carry of 32 bits carries again.
        Assert.Equal(0x0100, InternetChecksum.Sum([0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0]));
    }

    [Fact]
    public void Cut_frames_joined_again_are_the_payload() => Prop.ForAll(
        (from v6 in ArbMap.Default.GeneratorFor<bool>()
         from tcp in ArbMap.Default.GeneratorFor<bool>()
         from tags in Gen.Choose(0, 2)
         from options in Gen.Elements(0, 8, 16, 40)
         from payload in Gen.Choose(0, 20000)
         from size in Gen.Choose(10, 8000)
         select new TransportFrame(v6, tcp, tags, options, payload, size)).ToArbitrary(),
        frame =>
        {
            _sink.Frames.Clear();
            Forward(frame.Build(), frame.Offload);
            Assert.Equal(Math.Max(1, (frame.Payload + frame.SegmentSize - 1) / frame.SegmentSize), _sink.Frames.Count);
            var from = 0;
            foreach (var (index, piece) in _sink.Frames.Index())
            {
                var length = Math.Min(frame.SegmentSize, frame.Payload - from);
                frame.Check(piece, from, length, index);
                from += length;
            }
            Assert.Equal(frame.Payload, from);
        }).QuickCheckThrowOnFailure();

    [Fact]
    public void Whatever_headers_and_offload_data_say_nothing_breaks()
    {
        var random = new Random(7);
        _sink.Keeps = false;
        var pieces = 0;
        _sink.Delivered = _ => pieces++;
        for (var i = 0; i < 50_000; i++)
        {
            var frame = new TransportFrame(random.Next(2) == 0, random.Next(2) == 0, random.Next(3), 8 * random.Next(4), random.Next(3000), random.Next(9, 2000));
            var bytes = frame.Build();
            var offload = frame.Offload;
            for (var changes = random.Next(3); changes > 0; changes--)
                bytes[random.Next(12, frame.Headers)] = (byte)random.Next(256);
            switch (random.Next(8))
            {
                case 0:
                    offload = offload with { ChecksumStart = (ushort)random.Next(random.Next(2) == 0 ? 100 : 65536) };
                    break;
                case 1:
                    offload = offload with { ChecksumOffset = (ushort)random.Next(65536) };
                    break;
                case 2:
                    offload = offload with { Segmentation = (SegmentationType)random.Next(256) };
                    break;
                case 3:
                    offload = offload with { SegmentSize = (ushort)random.Next(65536), HeaderLength = (ushort)random.Next(65536) };
                    break;
                case 4:
                    bytes = bytes[..random.Next(bytes.Length)];
                    break;
                case 5:
                    offload = offload with { Flags = (FrameFlags)random.Next(8) };
                    break;
            }
            _batch.Forward(_from, new EthernetFrame(bytes, offload));
        }
        Assert.True(_from.Malformed is > 5000 and < 45_000 && pieces > 5000);
    }

    [Fact]
    public void Cutting_allocates_nothing()
    {
        var frame = new TransportFrame(IsV6: false, IsTcp: true, Payload: 60000);
        var bytes = frame.Build();
        _sink.Keeps = false;
        for (var round = 0; round < 2; round++)
        {
            var before = GC.GetAllocatedBytesForCurrentThread();
            for (var i = 0; i < 100; i++)
            {
                Forward(bytes, frame.Offload);
                Forward(bytes.AsSpan(0, 1000), frame.Offload with { Segmentation = SegmentationType.None });
            }
            if (round == 1)
                Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
        }
    }

    private void Forward(ReadOnlySpan<byte> bytes, FrameOffload offload)
    {
        _batch.Forward(_from, new EthernetFrame(bytes, offload));
        _batch.End(static (_, exception) => throw exception);
    }
}
