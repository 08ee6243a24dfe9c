using System.Buffers.Binary;
using Virtbus.Ethernet;
using Virtbus.Models.VirtioNet;
using Virtbus.Platform;
using Virtbus.Virtio;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;

namespace Virtbus.Tests.Models;

/// <summary>Two network devices on a switch, a driver on each: frames go through whole, with their offload data, by rings of both forms and every header.</summary>
public sealed class VirtioNetTests
{
    private const ulong MacA = 0x02_00_00_00_00_0A;
    private const ulong MacB = 0x02_00_00_00_00_0B;
    private const ulong Broadcast = 0xFFFF_FFFF_FFFF;
    private readonly EthernetSwitch _network = new();

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Frames_go_both_ways_whole_and_in_order(bool packed)
    {
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA) { Packed = packed });
        using var b = new VirtioNetDevice("b", _network, new VirtioNetOptions(MacB) { Packed = packed });
        using var userA = new VirtioNetUser(a);
        using var userB = new VirtioNetUser(b);
        for (var i = 0; i < 500; i++)
        {
            var (from, to) = (i & 1) == 0 ? (userA, userB) : (userB, userA);
            var frame = Net.Frame((i & 1) == 0 ? MacB : MacA, (i & 1) == 0 ? MacA : MacB, 14 + (i * 3 % 1500), i);
            from.Send(frame);
            var got = to.Receive();
            Assert.Equal(frame, got[to.HeaderSize..]);
            // One buffer, and nothing to do.
            Assert.Equal(1, got[10]);
            Assert.False(got.AsSpan(0, 10).ContainsAnyExcept((byte)0));
        }

        Assert.Equal(250UL, a.Counters.SentFrames);
        Assert.Equal(250UL, a.Counters.ReceivedFrames);
        Assert.Equal(a.Counters.SentBytes, b.Counters.ReceivedBytes);
        Assert.Equal((0UL, 0UL), (a.Counters.SendLost, b.Counters.ReceiveLost));
    }

    [Fact]
    public void Frame_that_nobody_is_there_for_is_not_cut_before_it_is_lost()
    {
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA));
        Assert.Equal(OffloadKinds.All, a.Port.Sink.Takes);
        using var user = new VirtioNetUser(a, VirtioFeatures.Of(
            VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6));
        Assert.Equal(OffloadKinds.None, a.Port.Sink.Takes);
        a.SetLink(false);
        Assert.Equal(OffloadKinds.All, a.Port.Sink.Takes);
    }

    [Fact]
    public void Frames_that_are_cut_into_thousands_go_out_whole_over_several_turns()
    {
        // As many as the device takes at once, which grows with each turn, are more than the 32,768 pieces that a batch may make.
        const int Frames = 62;
        const int Payload = 2048;
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA));
        using var user = new VirtioNetUser(a, slotSize: 4096);
        var sink = new Counter();
        _network.Join(new SwitchPort(sink));
        for (var i = 0; i < Frames; i++)
            Assert.True(user.TryPut(1, Net.Header(1, 1, 54, 1, 34, 16), Net.Tcp(Broadcast, MacA, 54 + Payload)));
        user.Push(1);
        Deadline.Until(() => a.Counters.SentFrames == Frames, "the frames to be sent");
        Assert.Equal(Frames * Payload, sink.Count);
        Assert.Equal(0, sink.Wrong);
    }

    [Fact]
    public void Service_tag_is_payload_to_the_filter_of_VLANs()
    {
        var filter = new ReceiveFilter(MacA) { Modes = 0, FiltersVlans = true };
        var frame = Net.Frame(MacA, MacB, 60, 1);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(12), 0x8100);
        Assert.False(filter.Accepts(new EthernetFrame(frame)));
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(12), 0x88A8);
        Assert.True(filter.Accepts(new EthernetFrame(frame)));
    }

    private sealed class Counter : IFrameSink
    {
        private int _count;
        private int _wrong;

        internal int Count => Volatile.Read(ref _count);

        internal int Length { get; init; } = 55;

        internal int Wrong => Volatile.Read(ref _wrong);

        public OffloadKinds Takes => OffloadKinds.None;

        public void Deliver(in EthernetFrame frame)
        {
            Interlocked.Increment(ref _count);
            if (frame.Length != Length || !frame.Offload.IsNone)
                Interlocked.Increment(ref _wrong);
        }

        public void Miss() => Interlocked.Increment(ref _wrong);

        public void Flush()
        {
        }
    }

    [Theory]
    [InlineData(false, 10)]
    [InlineData(true, 12)]
    public void Legacy_driver_has_the_header_of_its_features_and_may_write_its_address(bool merges, int size)
    {
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA));
        using var b = new VirtioNetDevice("b", _network, new VirtioNetOptions(MacB));
        var modern = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1, VIRTIO_NET_F_HASH_REPORT, VirtioFeatures.VIRTIO_F_IN_ORDER);
        using var userA = new VirtioNetUser(a, merges ? modern : modern.With(VIRTIO_NET_F_MRG_RXBUF));
        using var userB = new VirtioNetUser(b);
        Assert.Equal(size, userA.HeaderSize);
        userB.Send(Net.Frame(MacA, MacB, 60, 1));
        Assert.Equal(Net.Frame(MacA, MacB, 60, 1), userA.Receive()[size..]);
        userA.Send(Net.Frame(MacB, MacA, 60, 2));
        Assert.Equal(Net.Frame(MacB, MacA, 60, 2), userB.Receive()[20..]);
        for (var i = 0; i < 6; i++)
            Assert.True(a.TrySetConfig(i, [(byte)(i + 2)], out _));
        var mac = new byte[6];
        Assert.True(a.TryGetConfig(0, mac, out _));
        Assert.Equal([2, 3, 4, 5, 6, 7], mac);
        Assert.False(a.TrySetConfig(5, [1, 1], out var fault));
        Assert.Equal(Errno.EROFS, fault.Errno);
        Assert.False(b.TrySetConfig(0, [1], out fault));
        Assert.Equal(Errno.EROFS, fault.Errno);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Long_frame_takes_several_buffers_and_says_how_many(bool packed)
    {
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA) { Packed = packed, Mtu = 9000 });
        using var b = new VirtioNetDevice("b", _network, new VirtioNetOptions(MacB) { Packed = packed, Mtu = 9000 });
        using var userA = new VirtioNetUser(a, slotSize: 16384);
        using var userB = new VirtioNetUser(b, slotSize: 256);
        for (var length = 200; length <= 9014; length += 97)
        {
            var frame = Net.Frame(MacB, MacA, length, length);
            userA.Send(frame);
            var got = userB.Receive();
            Assert.Equal(frame, got[20..]);
            Assert.Equal((20 + length + 255) / 256, BinaryPrimitives.ReadUInt16LittleEndian(got.AsSpan(10)));
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Frame_for_more_buffers_than_there_are_waits_for_the_rest(bool packed)
    {
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA) { Mtu = 9000 });
        using var b = new VirtioNetDevice("b", _network, new VirtioNetOptions(MacB) { Mtu = 9000, Packed = packed });
        using var userA = new VirtioNetUser(a, slotSize: 16384);
        // 16 buffers of 256 bytes: one frame of 3,000 and a part of the next.
        using var userB = new VirtioNetUser(b, queueSize: 16, slotSize: 256);
        for (var i = 0; i < 3; i++)
            userA.Send(Net.Frame(MacB, MacA, 3000, i));
        for (var i = 0; i < 3; i++)
            Assert.Equal(Net.Frame(MacB, MacA, 3000, i), userB.Receive()[20..]);
        // 5,000 never fit; what is behind it comes as soon as all room is taken.
        userA.Send(Net.Frame(MacB, MacA, 5000, 9));
        userA.Send(Net.Frame(MacB, MacA, 100, 10));
        Assert.Equal(Net.Frame(MacB, MacA, 100, 10), userB.Receive()[20..]);
        Assert.Equal(1UL, b.Counters.ReceiveLost);
    }

    [Theory]
    [InlineData((128 * 64) - 20, true)]
    [InlineData((128 * 64) - 19, false)]
    public void Frame_for_more_than_128_buffers_is_lost_however_many_the_ring_has(int length, bool arrives)
    {
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA) { Mtu = 9000 });
        using var user = new VirtioNetUser(a, queueSize: 256, slotSize: 64);
        a.Port.Sink.Deliver(new EthernetFrame(Net.Frame(MacA, MacB, length, 1)));
        a.Port.Sink.Deliver(new EthernetFrame(Net.Frame(MacA, MacB, 60, 2)));
        a.Port.Sink.Flush();
        if (arrives)
            Assert.Equal(Net.Frame(MacA, MacB, length, 1), user.Receive()[20..]);
        Assert.Equal(Net.Frame(MacA, MacB, 60, 2), user.Receive()[20..]);
        Assert.Equal(arrives ? 0UL : 1UL, a.Counters.ReceiveLost);
    }

    [Theory]
    [InlineData(true, FrameFlags.DataValid, 2)]
    [InlineData(true, FrameFlags.None, 0)]
    [InlineData(false, FrameFlags.DataValid, 0)]
    public void Checksum_that_is_known_to_be_right_is_told_to_a_driver_that_leaves_it_to_the_device(bool takes, FrameFlags flags, byte expected)
    {
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA));
        using var user = new VirtioNetUser(a, takes ? VirtioFeatures.None : VirtioFeatures.Of(
            VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6));
        a.Port.Sink.Deliver(new EthernetFrame(Net.Tcp(MacA, MacB, 100), new FrameOffload(flags, SegmentationType.None, 0, 0, 0, 0, 0, 0)));
        a.Port.Sink.Flush();
        Assert.Equal(Net.Header(expected, 0, 0, 0, 0, 0), user.Receive()[..10]);
    }

    [Theory]
    [InlineData(1, 0x0800, true)]
    [InlineData(4, 0x86DD, true)]
    [InlineData(0x81, 0x0800, true)]
    [InlineData(0x84, 0x86DD, true)]
    [InlineData(0x84, 0x86DD, false)]
    [InlineData(5, 0x0800, true)]
    [InlineData(0x85, 0x0800, true)]
    public void Kind_of_segments_is_sent_where_the_driver_may_leave_it_and_lost_where_it_is_none(byte type, ushort etherType, bool hasEcn)
    {
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA));
        using var b = new VirtioNetDevice("b", _network, new VirtioNetOptions(MacB));
        using var userA = new VirtioNetUser(a, hasEcn ? VirtioFeatures.None : VirtioFeatures.Of(VIRTIO_NET_F_HOST_ECN), slotSize: 8192);
        using var userB = new VirtioNetUser(b, slotSize: 8192);
        var isV6 = etherType == 0x86DD;
        var isUdp = (type & 0x7F) == 5;
        var start = (ushort)(isV6 ? 54 : 34);
        var frame = Net.Tcp(MacB, MacA, 4000, protocol: isUdp ? (byte)17 : (byte)6);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(12), etherType);
        if (isV6)
        {
            frame.AsSpan(14, 40).Clear();
            (frame[14], frame[20], frame[66]) = (0x60, 6, 0x50);
        }

        userA.Send(frame, Net.Header(1, type, (ushort)(start + (isUdp ? 8 : 20)), 1000, start, (ushort)(isUdp ? 6 : 16)));
        var isTaken = hasEcn && type != 0x85;
        Deadline.Until(() => a.Counters.SentFrames + a.Counters.SendLost == 1, "the frame to be sent or lost");
        Assert.Equal((isTaken ? 1UL : 0UL, 0L), (a.Counters.SentFrames, a.Port.Malformed));
        if (!isTaken)
            return;
        var got = userB.Receive();
        Assert.Equal(type, got[1]);
        Assert.Equal(frame, got[20..]);
    }

    [Fact]
    public void Frames_that_wait_for_buffers_when_the_queue_stops_are_lost_and_counted()
    {
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA));
        using var b = new VirtioNetDevice("b", _network, new VirtioNetOptions(MacB));
        using var userA = new VirtioNetUser(a);
        using var userB = new VirtioNetUser(b, queueSize: 16);
        for (var i = 0; i < 20; i++)
            userA.Send(Net.Frame(MacB, MacA, 100, i));
        Deadline.Until(() => a.Counters.SentFrames == 20 && b.Counters.ReceivedFrames == 16, "as many to come as there are buffers");
        Assert.Equal(0UL, b.Counters.ReceiveLost);
        userB.Restart();
        Assert.Equal((16UL, 1600UL, 4UL), (b.Counters.ReceivedFrames, b.Counters.ReceivedBytes, b.Counters.ReceiveLost));
        // They are lost once.
        userB.Restart();
        Assert.Equal(4UL, b.Counters.ReceiveLost);
    }

    [Fact]
    public void Without_merging_a_frame_that_is_longer_than_its_buffer_is_lost_and_the_next_one_comes()
    {
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA));
        using var b = new VirtioNetDevice("b", _network, new VirtioNetOptions(MacB));
        using var userA = new VirtioNetUser(a);
        using var userB = new VirtioNetUser(b, VirtioFeatures.Of(VIRTIO_NET_F_MRG_RXBUF), slotSize: 1024);
        userA.Send(Net.Frame(MacB, MacA, 1005, 1));
        userA.Send(Net.Frame(MacB, MacA, 1004, 2));
        Assert.Equal(Net.Frame(MacB, MacA, 1004, 2), userB.Receive()[20..]);
        Assert.Equal(1UL, b.Counters.ReceiveLost);
    }

    [Fact]
    public void Offload_data_arrives_as_it_was_sent_where_both_drivers_took_the_features()
    {
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA));
        using var b = new VirtioNetDevice("b", _network, new VirtioNetOptions(MacB));
        using var userA = new VirtioNetUser(a, slotSize: 66000);
        using var userB = new VirtioNetUser(b);
        // A checksum alone: nothing of the rest counts.
        userA.Send(Net.Tcp(MacB, MacA, 100), Net.Header(1, 0, 77, 88, 34, 16));
        Assert.Equal(Net.Header(1, 0, 0, 0, 34, 16), userB.Receive()[..10]);
        // 64 KiB of TCP, and with congestion.
        foreach (var type in (byte[])[1, 0x81])
        {
            var frame = Net.Tcp(MacB, MacA, 65000);
            userA.Send(frame, Net.Header(1, type, 54, 1448, 34, 16));
            var got = userB.Receive();
            Assert.Equal(Net.Header(1, type, 54, 1448, 34, 16), got[..10]);
            Assert.Equal(frame, got[20..]);
        }

        // What a driver says of validity is not its to say.
        userA.Send(Net.Tcp(MacB, MacA, 100), Net.Header(6, 0, 0, 0, 0, 0));
        Assert.Equal(new byte[10], userB.Receive()[..10]);
        Assert.Equal(0UL, a.Counters.SendLost + b.Counters.ReceiveLost);
    }

    [Theory]
    // Flags, type, header length, segment size, checksum start and offset; the feature that the driver lacks.
    [InlineData(0, 1, 54, 1448, 34, 16, -1)]
    [InlineData(1, 1, 54, 0, 34, 16, -1)]
    [InlineData(1, 2, 54, 1448, 34, 16, -1)]
    [InlineData(1, 3, 54, 1448, 34, 16, -1)]
    [InlineData(1, 0x80, 54, 1448, 34, 16, -1)]
    [InlineData(1, 0, 0, 0, 99, 0, -1)]
    [InlineData(1, 0, 0, 0, 0xFFFF, 0xFFFF, -1)]
    [InlineData(1, 0, 0, 0, 34, 16, VIRTIO_NET_F_CSUM)]
    [InlineData(1, 1, 54, 1448, 34, 16, VIRTIO_NET_F_HOST_TSO4)]
    [InlineData(1, 4, 54, 1448, 34, 16, VIRTIO_NET_F_HOST_TSO6)]
    [InlineData(1, 0x81, 54, 1448, 34, 16, VIRTIO_NET_F_HOST_ECN)]
    [InlineData(1, 5, 54, 1448, 34, 16, VIRTIO_NET_F_HOST_USO)]
    public void Header_that_is_wrong_or_leaves_what_was_not_settled_loses_the_frame_only(
        byte flags, byte type, ushort headerLength, ushort segment, ushort start, ushort offset, int lacks)
    {
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA));
        using var b = new VirtioNetDevice("b", _network, new VirtioNetOptions(MacB));
        var without = VirtioFeatures.None;
        if (lacks == VIRTIO_NET_F_CSUM)
            without = VirtioFeatures.Of(VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_USO);
        else if (lacks >= 0)
            without = VirtioFeatures.Of(lacks);
        using var userA = new VirtioNetUser(a, without);
        using var userB = new VirtioNetUser(b);
        userA.Send(Net.Tcp(MacB, MacA, 100), Net.Header(flags, type, headerLength, segment, start, offset));
        userA.Send(Net.Frame(MacB, MacA, 60, 1));
        Assert.Equal(Net.Frame(MacB, MacA, 60, 1), userB.Receive()[20..]);
        Assert.Equal((1UL, 1UL), (a.Counters.SendLost, a.Counters.SentFrames));
    }

    [Theory]
    // Of TCP in IPv4 that is none, with its checksum in the Ethernet header, in more pieces than one frame may make, and one that is right.
    [InlineData(0x86DD, 100, 1, 1448, 34, 16, false)]
    [InlineData(0x0800, 100, 0, 0, 13, 16, false)]
    [InlineData(0x0800, 54 + 2049, 1, 1, 34, 16, false)]
    [InlineData(0x0800, 54 + 2048, 1, 1, 34, 16, true)]
    // By a port of VLAN 7: with the tag of 8, of 7, and of none.
    [InlineData(0x8100, 100, 0, 0, 0, 0, false, 7, 8)]
    [InlineData(0x8100, 100, 0, 0, 0, 0, true, 7, 7)]
    [InlineData(0x8100, 100, 0, 0, 0, 0, true, 7, 0)]
    public void Frame_that_the_switch_refuses_counts_as_lost_and_not_as_sent(
        ushort etherType, int length, byte type, ushort segment, ushort start, ushort offset, bool isTaken, ushort vlan = 0, ushort tag = 0)
    {
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA) { Vlan = vlan });
        using var user = new VirtioNetUser(a);
        var frame = Net.Tcp(Broadcast, MacA, length);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(12), etherType);
        if (vlan != 0)
            BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(14), tag);
        user.Send(frame, Net.Header((byte)(start == 0 ? 0 : 1), type, 54, segment, start, offset));
        Deadline.Until(() => a.Counters.SentFrames + a.Counters.SendLost == 1, "the frame to be sent or lost");
        Assert.Equal((isTaken ? 1UL : 0UL, isTaken ? (ulong)length : 0UL, isTaken ? 0UL : 1UL), (a.Counters.SentFrames, a.Counters.SentBytes, a.Counters.SendLost));
        Assert.Equal(isTaken ? 0 : 1, a.Port.Malformed + a.Port.Filtered);
        Assert.Equal(!isTaken && vlan != 0 ? 1 : 0, a.Port.Filtered);
    }

    [Theory]
    [InlineData(1500, 1500, 1514, false, true)]
    [InlineData(1500, 1500, 1515, false, false)]
    [InlineData(1500, 1500, 1518, true, true)]
    [InlineData(1500, 1500, 1519, true, false)]
    [InlineData(9000, 1500, 1515, false, false)]
    [InlineData(9000, 1500, 1514, false, true)]
    [InlineData(1500, 9000, 1515, false, false)]
    public void Frame_longer_than_the_mtu_of_either_side_is_lost(int mtuA, int mtuB, int length, bool tagged, bool arrives)
    {
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA) { Mtu = mtuA });
        using var b = new VirtioNetDevice("b", _network, new VirtioNetOptions(MacB) { Mtu = mtuB });
        using var userA = new VirtioNetUser(a);
        using var userB = new VirtioNetUser(b);
        var frame = Net.Frame(MacB, MacA, length, 1);
        if (tagged)
            (frame[12], frame[13]) = (0x81, 0);
        userA.Send(frame);
        userA.Send(Net.Frame(MacB, MacA, 60, 2));
        Assert.Equal(arrives ? frame : Net.Frame(MacB, MacA, 60, 2), userB.Receive()[20..]);
        Assert.Equal(arrives ? 0UL : 1UL, a.Counters.SendLost + b.Counters.ReceiveLost);
    }

    [Theory]
    [InlineData(1, 54, 1460, true)]
    [InlineData(1, 54, 1461, false)]
    [InlineData(1, 54, 8960, false)]
    [InlineData(5, 42, 1472, true)]
    [InlineData(5, 42, 1473, false)]
    public void Frame_to_be_cut_into_longer_ones_than_the_mtu_is_lost(byte type, ushort headers, ushort segment, bool arrives)
    {
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA));
        using var b = new VirtioNetDevice("b", _network, new VirtioNetOptions(MacB) { Mtu = 9000 });
        using var userA = new VirtioNetUser(a, slotSize: 16384);
        using var userB = new VirtioNetUser(b, slotSize: 16384);
        var frame = Net.Tcp(MacB, MacA, 9014, protocol: type == 1 ? (byte)6 : (byte)17);
        userA.Send(frame, Net.Header(1, type, headers, segment, 34, type == 1 ? (ushort)16 : (ushort)6));
        userA.Send(Net.Frame(MacB, MacA, 60, 2));
        Assert.Equal(arrives ? frame : Net.Frame(MacB, MacA, 60, 2), userB.Receive()[20..]);
        Assert.Equal(arrives ? 0UL : 1UL, a.Counters.SendLost);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Addresses_of_the_user_of_before_are_not_the_next_ones(bool byLink)
    {
        const ulong Stranger = 0x02_00_00_00_00_99;
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA));
        using var b = new VirtioNetDevice("b", _network, new VirtioNetOptions(MacB));
        using var userA = new VirtioNetUser(a);
        using var userB = new VirtioNetUser(b);
        var others = new Counter { Length = 60 };
        _network.Join(new SwitchPort(others));
        userA.Send(Net.Frame(MacB, Stranger, 60, 1));
        userB.Receive();
        Assert.Equal(1, others.Count);
        userB.Send(Net.Frame(Stranger, MacB, 60, 2));
        userB.Send(Net.Frame(Broadcast, MacB, 60, 3));
        Deadline.Until(() => others.Count >= 2, "the second frame");
        Assert.Equal(2, others.Count);
        if (byLink)
            a.SetLink(false);
        else
            a.BeginUse();
        userB.Send(Net.Frame(Stranger, MacB, 60, 4));
        Deadline.Until(() => others.Count >= 3, "the frame to reach all");
        Assert.Equal(0, others.Wrong);
    }

    [Fact]
    public void Driver_that_took_no_offloads_is_given_no_frame_with_work_left()
    {
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA));
        using var b = new VirtioNetDevice("b", _network, new VirtioNetOptions(MacB));
        using var userA = new VirtioNetUser(a);
        using var userB = new VirtioNetUser(b, VirtioFeatures.Of(
            VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6));
        Assert.Equal(OffloadKinds.None, b.Port.Sink.Takes);
        Assert.Equal(OffloadKinds.All, a.Port.Sink.Takes);
        b.Port.Sink.Deliver(new EthernetFrame(Net.Tcp(MacB, MacA, 100), new FrameOffload(FrameFlags.NeedsChecksum, SegmentationType.None, 0, 0, 34, 16, 0, 0)));
        b.Port.Sink.Flush();
        userA.Send(Net.Frame(MacB, MacA, 60, 2));
        Assert.Equal(Net.Frame(MacB, MacA, 60, 2), userB.Receive()[20..]);
        Assert.Equal(1UL, b.Counters.ReceiveLost);
    }

    [Fact]
    public void Link_that_is_down_passes_nothing_and_the_driver_is_told()
    {
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA));
        using var b = new VirtioNetDevice("b", _network, new VirtioNetOptions(MacB));
        using var userA = new VirtioNetUser(a);
        using var userB = new VirtioNetUser(b);
        var notices = 0;
        b.SetConfigCallback(() => notices++);
        b.SetLink(false);
        b.SetLink(false);
        Assert.Equal((1, 1U, 0), (notices, b.ConfigGeneration, Net.Status(b)));
        userA.Send(Net.Frame(MacB, MacA, 60, 1));
        Deadline.Until(() => b.Counters.ReceiveLost == 1, "the frame to be lost");
        userB.Send(Net.Frame(MacA, MacB, 60, 2));
        Deadline.Until(() => b.Counters.SendLost == 1, "the frame to be lost");
        b.SetLink(true);
        Assert.Equal((2, VIRTIO_NET_S_LINK_UP), (notices, Net.Status(b)));
        userA.Send(Net.Frame(MacB, MacA, 60, 3));
        Assert.Equal(Net.Frame(MacB, MacA, 60, 3), userB.Receive()[20..]);
    }

    [Fact]
    public void Frame_of_a_group_reaches_all_but_its_sender()
    {
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA));
        using var b = new VirtioNetDevice("b", _network, new VirtioNetOptions(MacB));
        using var c = new VirtioNetDevice("c", _network, new VirtioNetOptions(MacB + 1));
        using var userA = new VirtioNetUser(a);
        using var userB = new VirtioNetUser(b);
        using var userC = new VirtioNetUser(c);
        userA.Send(Net.Frame(Broadcast, MacA, 60, 1));
        Assert.Equal(Net.Frame(Broadcast, MacA, 60, 1), userB.Receive()[20..]);
        Assert.Equal(Net.Frame(Broadcast, MacA, 60, 1), userC.Receive()[20..]);
        userB.Send(Net.Frame(MacA, MacB, 60, 2));
        Assert.Equal(Net.Frame(MacA, MacB, 60, 2), userA.Receive()[20..]);
        Assert.Equal(1UL, a.Counters.ReceivedFrames);
    }

    [Fact]
    public void Options_out_of_bounds_are_refused_by_name()
    {
        foreach (var (options, what) in new (VirtioNetOptions, string)[]
        {
            (new(0), "address 000000000000"),
            (new(0x01_00_00_00_00_00), "address 010000000000"),
            (new(1UL << 48), "address 1000000000000"),
            (new(MacA) { QueuePairs = 0 }, "0 queue pairs"),
            (new(MacA) { QueuePairs = 128 }, "128 queue pairs"),
            (new(MacA) { Mtu = 67 }, "an MTU of 67"),
            (new(MacA) { Mtu = 9001 }, "an MTU of 9001"),
            (new(MacA) { Mtu = 0 }, "an MTU of 0"),
            (new(MacA) { Speed = 0x8000_0000 }, "a speed of 2147483648 Mbit/s"),
        })
            Assert.Contains(what, Assert.Throws<VirtbusException>(() => new VirtioNetDevice("a", _network, options)).Message, StringComparison.Ordinal);
        Assert.Empty(_network.Ports);
        using (new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA) { QueuePairs = 127, Mtu = 9000 }))
            Assert.Single(_network.Ports);
        using (new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA) { QueuePairs = 1, Mtu = 68 }))
            Assert.Single(_network.Ports);
        Assert.Empty(_network.Ports);
    }

    [Fact]
    public void Configuration_says_what_the_options_say()
    {
        using var a = new VirtioNetDevice(
            "a", _network, new VirtioNetOptions(0x02_11_22_33_44_55) { QueuePairs = 3, Mtu = 9000, Speed = 25000, IsFullDuplex = true });
        using var b = new VirtioNetDevice("b", _network, new VirtioNetOptions(MacB));
        var space = new byte[24];
        Assert.True(a.TryGetConfig(0, space, out _));
        Assert.Equal("02112233445501000300" + "2823" + "A8610000" + "01" + "28" + "8000" + "3F000000", Convert.ToHexString(space));
        Assert.True(b.TryGetConfig(10, space.AsSpan(0, 7), out _));
        Assert.Equal("DC05" + "FFFFFFFF" + "FF", Convert.ToHexString(space.AsSpan(0, 7)));
        Assert.False(a.TryGetConfig(20, space, out _));
        Assert.Equal((7, 3), (a.QueueCount, b.QueueCount));
        Assert.False(b.DeviceFeatures.Has(VIRTIO_NET_F_MQ) || b.DeviceFeatures.Has(VIRTIO_NET_F_RSS));
    }

    [Theory]
    [InlineData(VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_CSUM)]
    [InlineData(VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_CSUM)]
    [InlineData(VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4)]
    [InlineData(VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_CSUM)]
    [InlineData(VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_GUEST_CSUM)]
    [InlineData(VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_CSUM)]
    [InlineData(VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_CSUM)]
    [InlineData(VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO6)]
    [InlineData(VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_CSUM)]
    [InlineData(VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VQ)]
    [InlineData(VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ)]
    [InlineData(VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_CTRL_VQ)]
    [InlineData(VIRTIO_NET_F_MQ, VIRTIO_NET_F_CTRL_VQ)]
    [InlineData(VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_VQ)]
    [InlineData(VIRTIO_NET_F_RSS, VIRTIO_NET_F_CTRL_VQ)]
    [InlineData(VIRTIO_NET_F_NOTF_COAL, VIRTIO_NET_F_CTRL_VQ)]
    [InlineData(VIRTIO_NET_F_VQ_NOTF_COAL, VIRTIO_NET_F_CTRL_VQ)]
    public void Feature_without_the_one_that_it_needs_is_refused(int feature, int needs)
    {
        using var a = new VirtioNetDevice("a", _network, new VirtioNetOptions(MacA) { QueuePairs = 2 });
        var base1 = needs is VIRTIO_NET_F_GUEST_TSO4 ? VIRTIO_NET_F_GUEST_CSUM : needs is VIRTIO_NET_F_HOST_TSO6 ? VIRTIO_NET_F_CSUM : feature;
        Assert.True(a.TrySetStatus(3, out _));
        Assert.True(a.TrySetDriverFeatures(VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1, feature, base1), out _));
        Assert.False(a.TrySetStatus(11, out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.True(a.TrySetDriverFeatures(VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1, feature, needs, base1), out _));
        Assert.True(a.TrySetStatus(11, out _));
    }
}
