using System.Buffers.Binary;
using Virtbus.Ethernet;

namespace Virtbus.Tests.Ethernet;

/// <summary>Ports that give access to a VLAN, and trunks.</summary>
public sealed class VlanTests
{
    private const ulong Everyone = 0xFFFFFFFFFFFF;
    private readonly EthernetSwitch _switch = new();
    private readonly SwitchBatch _batch;

    public VlanTests() => _batch = new SwitchBatch(_switch);

    [Fact]
    public void Frame_reaches_ports_of_its_vlan_and_trunks()
    {
        var (ten, sinkTen) = Join(10);
        var (other, sinkOther) = Join(10);
        var (twenty, sinkTwenty) = Join(20);
        var (trunk, sinkTrunk) = Join(0);
        Forward(ten, Frame(Everyone, 1));
        // Untagged where there is access, with the VLAN's tag on a trunk.
        Assert.Equal(Frame(Everyone, 1), Assert.Single(sinkOther.Frames));
        Assert.Equal(Frame(Everyone, 1, 10), Assert.Single(sinkTrunk.Frames));
        Assert.Empty(sinkTwenty.Frames);
        Forward(trunk, Frame(Everyone, 2, 20));
        Assert.Equal(Frame(Everyone, 2), Assert.Single(sinkTwenty.Frames));
        Assert.Empty(sinkTen.Frames);
        // Of no VLAN: trunks only.
        var (_, sinkSecond) = Join(0);
        Forward(trunk, Frame(Everyone, 3));
        Forward(trunk, Frame(Everyone, 3, 30));
        Assert.Equal([Frame(Everyone, 3), Frame(Everyone, 3, 30)], sinkSecond.Frames);
        Assert.Equal((0, 1, 1), (sinkTen.Frames.Count, sinkOther.Frames.Count, sinkTwenty.Frames.Count));
        Assert.Equal((0L, 0L), (other.Filtered, twenty.Filtered));
    }

    [Fact]
    public void Port_of_access_takes_its_own_tag_and_priorities_and_drops_the_rest()
    {
        var (ten, _) = Join(10);
        var (_, sink) = Join(10);
        var (_, trunk) = Join(0);
        Forward(ten, Frame(Everyone, 1, 10));
        Forward(ten, Frame(Everyone, 1, 0xA000));
        Assert.Equal([Frame(Everyone, 1), Frame(Everyone, 1)], sink.Frames);
        Assert.Equal([Frame(Everyone, 1, 10), Frame(Everyone, 1, 0xA00A)], trunk.Frames);
        Forward(ten, Frame(Everyone, 1, 20));
        Assert.Equal((1L, 0L, 2), (ten.Filtered, ten.Malformed, trunk.Frames.Count));
        // Of a tag's own, nothing is left.
        Forward(ten, Frame(Everyone, 1, 10)[..17]);
        Assert.Equal((1L, 1L, 2), (ten.Filtered, ten.Malformed, trunk.Frames.Count));
    }

    [Fact]
    public void Tag_of_a_service_is_payload()
    {
        var (ten, _) = Join(10);
        var (_, trunk) = Join(0);
        var frame = Frame(Everyone, 1, 20);
        frame[12] = 0x88;
        frame[13] = 0xA8;
        Forward(ten, frame);
        Assert.Equal([.. frame[..12], 0x81, 0, 0, 10, .. frame[12..]], Assert.Single(trunk.Frames));
    }

    [Fact]
    public void Address_is_learned_for_its_vlan()
    {
        var (ten, sinkTen) = Join(10);
        var (twenty, sinkTwenty) = Join(20);
        var (trunk, sinkTrunk) = Join(0);
        Forward(ten, Frame(Everyone, 1));
        Forward(twenty, Frame(Everyone, 1));
        sinkTrunk.Frames.Clear();
        Forward(trunk, Frame(1, 2, 10));
        Assert.Equal((1, 0), (sinkTen.Frames.Count, sinkTwenty.Frames.Count));
        Forward(trunk, Frame(1, 2, 20));
        Assert.Equal((1, 1), (sinkTen.Frames.Count, sinkTwenty.Frames.Count));
        // The trunk's own address, from the port of access: back with the tag.
        Forward(ten, Frame(2, 1));
        Assert.Equal(Frame(2, 1, 10), Assert.Single(sinkTrunk.Frames));
    }

    [Fact]
    public void Vlan_goes_with_a_frame_to_other_lanes()
    {
        var lane = _switch.AddLane(static () => { });
        var (ten, twenty, trunk) = (new KeepingSink(), new KeepingSink(), new KeepingSink());
        lane.Join(new SwitchPort(lane, ten) { AccessVlan = 10 });
        var portTwenty = new SwitchPort(lane, twenty) { AccessVlan = 20 };
        lane.Join(portTwenty);
        lane.Join(new SwitchPort(lane, trunk));
        var (from, sinkFrom) = Join(10);
        Forward(from, Frame(Everyone, 1));
        lane.TakeInbound();
        Assert.Equal(Frame(Everyone, 1), Assert.Single(ten.Frames));
        Assert.Equal(Frame(Everyone, 1, 10), Assert.Single(trunk.Frames));
        Assert.Empty(twenty.Frames);
        lane.Forward(portTwenty, new EthernetFrame(Frame(1, 2)));
        Assert.Empty(sinkFrom.Frames);
        Assert.Equal(2, trunk.Frames.Count);
    }

    [Fact]
    public void Offload_data_moves_with_the_tag()
    {
        var (ten, sinkTen) = Join(10);
        var (trunk, sinkTrunk) = Join(0);
        sinkTen.Takes = sinkTrunk.Takes = OffloadKinds.All;
        var plain = new TransportFrame(IsV6: false, IsTcp: true);
        var tagged = plain with { Tags = 1 };
        Forward(ten, plain.Build(), plain.Offload);
        Assert.Equal(tagged.Offload, sinkTrunk.Last);
        var bytes = tagged.Build();
        BinaryPrimitives.WriteUInt16BigEndian(bytes.AsSpan(14), 10);
        Assert.Equal(bytes, sinkTrunk.Frames[0]);
        Forward(trunk, bytes, tagged.Offload);
        Assert.Equal(plain.Offload, sinkTen.Last);
        Assert.Equal(plain.Build(), sinkTen.Frames[0]);
        // What is known only stays; a hint is a hint.
        var known = new FrameOffload(FrameFlags.DataValid, SegmentationType.None, 7, 0, 7, 7, 0, 0);
        Forward(ten, plain.Build().AsSpan(0, 1000), known);
        Assert.Equal(known, sinkTrunk.Last);
        Forward(trunk, bytes, tagged.Offload with { HeaderLength = 1 });
        Assert.Equal(0, sinkTen.Last.HeaderLength);
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void Frames_are_cut_and_their_tag_changes_at_once(bool v6, bool tcp)
    {
        var (ten, sinkTen) = Join(10);
        var (trunk, sinkTrunk) = Join(0);
        var plain = new TransportFrame(v6, tcp);
        Forward(ten, plain.Build(), plain.Offload);
        Assert.Equal(3, sinkTrunk.Frames.Count);
        for (var i = 0; i < 3; i++)
        {
            Assert.Equal([0x81, 0, 0, 10], sinkTrunk.Frames[i][12..16]);
            plain.Check(sinkTrunk.Frames[i], i * 1400, i < 2 ? 1400 : 1200, i, grown: 4);
        }
        var tagged = plain with { Tags = 1 };
        var bytes = tagged.Build();
        BinaryPrimitives.WriteUInt16BigEndian(bytes.AsSpan(14), 10);
        Forward(trunk, bytes, tagged.Offload);
        Assert.Equal(3, sinkTen.Frames.Count);
        for (var i = 0; i < 3; i++)
            plain.Check(sinkTen.Frames[i], i * 1400, i < 2 ? 1400 : 1200, i);
        // A checksum alone, too.
        Forward(trunk, bytes, tagged.Offload with { Segmentation = SegmentationType.None });
        plain.Check(sinkTen.Frames[3], 0, 4000, 0);
    }

    [Fact]
    public void Frame_that_a_tag_makes_too_long_is_dropped()
    {
        var (ten, _) = Join(10);
        var (_, trunk) = Join(0);
        trunk.Takes = OffloadKinds.All;
        byte[] longest = [.. Frame(Everyone, 1), .. new byte[EthernetFrame.MaxLength - 4 - 60]];
        Forward(ten, longest);
        Assert.Equal(EthernetFrame.MaxLength, Assert.Single(trunk.Frames).Length);
        Forward(ten, [.. longest, 0]);
        var wide = new TransportFrame(IsV6: false, IsTcp: true, Payload: 20000, SegmentSize: EthernetFrame.MaxLength - 4 - 66);
        Forward(ten, wide.Build(), wide.Offload);
        Assert.Equal((2, 1L), (trunk.Frames.Count, ten.Malformed));
        trunk.Takes = OffloadKinds.None;
        Forward(ten, wide.Build(), wide.Offload);
        Assert.Equal(EthernetFrame.MaxLength, trunk.Frames[2].Length);
        wide = wide with { SegmentSize = wide.SegmentSize + 1 };
        Forward(ten, wide.Build(), wide.Offload);
        Assert.Equal(2, ten.Malformed);
    }

    [Fact]
    public void Id_that_no_vlan_has_is_refused()
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => new SwitchPort(new KeepingSink()) { AccessVlan = 4095 });
        Assert.Equal(4094, new SwitchPort(new KeepingSink()) { AccessVlan = 4094 }.AccessVlan);
    }

    private (SwitchPort, KeepingSink) Join(ushort vlan)
    {
        var sink = new KeepingSink();
        var port = new SwitchPort(sink) { AccessVlan = vlan };
        _switch.Join(port);
        return (port, sink);
    }

    private void Forward(SwitchPort from, ReadOnlySpan<byte> bytes, FrameOffload offload = default)
    {
        _batch.Forward(from, new EthernetFrame(bytes, offload));
        _batch.End(static (_, exception) => throw exception);
    }

    private static byte[] Frame(ulong destination, ulong source, ushort? tag = null)
    {
        var bytes = new byte[60];
        for (var i = 0; i < 6; i++)
            (bytes[i], bytes[6 + i]) = ((byte)(destination >> (40 - (8 * i))), (byte)(source >> (40 - (8 * i))));
        bytes[20] = 0xEE;
        if (tag is not { } control)
            return bytes;
        return [.. bytes[..12], 0x81, 0, (byte)(control >> 8), (byte)control, .. bytes[12..]];
    }
}
