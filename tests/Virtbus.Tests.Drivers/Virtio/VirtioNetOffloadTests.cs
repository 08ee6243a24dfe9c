using System.Buffers.Binary;
using System.Collections.Concurrent;
using Virtbus.Core;
using Virtbus.Drivers.VirtioNet;
using Virtbus.Ethernet;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioNet;
using Virtbus.Subsystems.Net;
using Virtbus.Tests.Ethernet;
using Virtbus.Virtio;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>What interfaces of virtio_net leave to their device and take over from it, and what they ask of it by command.</summary>
public sealed class VirtioNetOffloadTests
{
    private const ulong Left = 0x020000000001;
    private const ulong Right = 0x020000000002;
    private readonly EthernetSwitch _lan = new();

    public static TheoryData<bool, bool, bool> Shapes => new(
        from packed in new[] { false, true }
        from v6 in new[] { false, true }
        from tcp in new[] { false, true }
        select (packed, v6, tcp));

    [Theory]
    [MemberData(nameof(Shapes))]
    public async Task Uncut_frame_crosses_whole_to_who_takes_it_and_cut_to_who_does_not(bool packed, bool v6, bool tcp)
    {
        await using var rig = await VirtioRig.StartAsync();
        var left = await AddAsync(rig, Left, isPacked: packed);
        var right = await AddAsync(rig, Right, isPacked: packed);
        Assert.Equal(OffloadKinds.All, left.Device.Offloads);
        var (all, plain) = (new Receiver(OffloadKinds.All), new Receiver(OffloadKinds.None));
        right.Device.AddReceiver(all);
        // As long as IP has them, over 32 slots and as many receive buffers.
        var frame = new TransportFrame(v6, tcp, Payload: 65000);
        Send(left.Device, frame.Build(), frame.Offload);
        await Deadline.UntilAsync(() => !all.Frames.IsEmpty, "the frame");
        var got = Assert.Single(all.Frames);
        Assert.Equal(frame.Build(), got.Bytes);
        Assert.Equal(frame.Offload with { HashReport = 0, Hash = 0 }, got.Offload);
        Assert.Equal((1UL, 1UL), (left.Model.Counters.SentFrames, right.Model.Counters.ReceivedFrames));
        right.Device.RemoveReceiver(all);
        right.Device.AddReceiver(plain);
        Send(left.Device, frame.Build(), frame.Offload);
        await Deadline.UntilAsync(() => plain.Frames.Count == 47, "the pieces");
        var pieces = plain.Frames.ToArray();
        for (var i = 0; i < pieces.Length; i++)
            frame.Check(pieces[i].Bytes, i * 1400, Math.Min(1400, 65000 - (i * 1400)), i);
    }

    [Fact]
    public async Task Device_without_offloads_is_given_what_a_wire_takes()
    {
        await using var rig = await VirtioRig.StartAsync();
        var left = await AddAsync(rig, Left, offloads: false);
        var right = await AddAsync(rig, Right, offloads: false);
        Assert.Equal(OffloadKinds.None, left.Device.Offloads);
        Assert.Equal("off [fixed]\n", await ReadAsync(rig, left.Device, "features/tx-tcp-segmentation"));
        var all = new Receiver(OffloadKinds.All);
        right.Device.AddReceiver(all);
        var frame = new TransportFrame(false, true);
        Send(left.Device, frame.Build(), frame.Offload);
        await Deadline.UntilAsync(() => all.Frames.Count == 3, "the pieces");
        Assert.Equal(3UL, left.Model.Counters.SentFrames);
        var pieces = all.Frames.ToArray();
        for (var i = 0; i < 3; i++)
            frame.Check(pieces[i].Bytes, i * 1400, i < 2 ? 1400 : 1200, i);
    }

    [Fact]
    public async Task Checksum_that_is_left_open_is_the_receiver_s_or_put_in_for_it()
    {
        await using var rig = await VirtioRig.StartAsync();
        var left = await AddAsync(rig, Left);
        var right = await AddAsync(rig, Right);
        var (open, plain) = (new Receiver(OffloadKinds.Checksum), new Receiver(OffloadKinds.None));
        right.Device.AddReceiver(open);
        right.Device.AddReceiver(plain);
        var frame = new TransportFrame(true, false, Payload: 500);
        var offload = frame.Offload with { Segmentation = SegmentationType.None, SegmentSize = 0, HeaderLength = 0, HashReport = 0, Hash = 0 };
        Send(left.Device, frame.Build(), offload);
        await Deadline.UntilAsync(() => !plain.Frames.IsEmpty, "the frame");
        Assert.Equal(offload, Assert.Single(open.Frames).Offload);
        Assert.Equal(frame.Build(), open.Frames.First().Bytes);
        var put = Assert.Single(plain.Frames).Bytes;
        Assert.Equal(0xFFFF, TransportFrame.Sum(put.AsSpan(frame.Transport), frame.PseudoSum(put, put.Length - frame.Transport)));
    }

    [Fact]
    public async Task Whole_frames_after_uncut_ones_have_nothing_of_them()
    {
        await using var rig = await VirtioRig.StartAsync();
        var left = await AddAsync(rig, Left);
        var right = await AddAsync(rig, Right);
        var seen = new Receiver(OffloadKinds.All);
        right.Device.AddReceiver(seen);
        var frame = new TransportFrame(false, true, Payload: 60000);
        // More than there are slots, so that each was one of the long frames'.
        for (var round = 0; round < 20; round++)
        {
            await Deadline.UntilAsync(() => left.Device.TryTransmit(new EthernetFrame(frame.Build(), frame.Offload), out _), "room");
            await Deadline.UntilAsync(() => seen.Frames.Count == round + 1, "the frame");
        }

        for (var i = 0; i < 600; i++)
        {
            await Deadline.UntilAsync(() => left.Device.TryTransmit(Frame(Right, (byte)i), out _), "room");
            await Deadline.UntilAsync(() => seen.Frames.Count > 20 + i - 100, "the frames before");
        }

        await Deadline.UntilAsync(() => seen.Frames.Count == 620, "the frames");
        Assert.All(seen.Frames.Take(20), f => Assert.Equal(frame.Build(), f.Bytes));
        var plain = seen.Frames.Skip(20).ToArray();
        for (var i = 0; i < plain.Length; i++)
            Assert.Equal(Frame(Right, (byte)i), plain[i].Bytes);
        Assert.All(plain, static f => Assert.True(f.Offload.IsNone));
    }

    [Fact]
    public async Task Features_that_go_without_another_one_are_not_taken()
    {
        await using var rig = await FabricRig.StartAsync();
        await rig.InitModuleAsync(new VirtioNetModule(), "virtio_net");
        var parent = await rig.Fabric.RegisterAsync(new Device("card"));
        var all = Bits(0, 1, 3, 5, 7, 8, 9, 11, 12, 13, 15, 16, 17, 18, 19, 21, 22, 23, 54, 55, 56);
        // Queues of a control queue are the fake one's to answer, which it does not: those are tried without it only.
        await AssertSettledAsync(all & ~Bits(17), all & ~Bits(17, 18, 19, 21, 22, 23));
        await AssertSettledAsync(all & ~Bits(17, 0), all & ~Bits(17, 18, 19, 21, 22, 23, 0, 11, 12, 13, 56));
        await AssertSettledAsync(all & ~Bits(17, 1), all & ~Bits(17, 18, 19, 21, 22, 23, 1, 7, 8, 9, 54, 55));
        await AssertSettledAsync(all & ~Bits(17, 15), all & ~Bits(17, 18, 19, 21, 22, 23, 15, 7, 8, 9, 54, 55));
        await AssertSettledAsync(all & ~Bits(17, 7, 8, 11, 12), all & ~Bits(17, 18, 19, 21, 22, 23, 7, 8, 9, 11, 12, 13));

        async Task AssertSettledAsync(VirtioFeatures offered, VirtioFeatures settled)
        {
            var transport = new FakeTransport
            {
                VirtioType = 1, DeviceFeatures = offered | Bits(VirtioFeatures.VIRTIO_F_VERSION_1), Config = [2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 220, 5], QueueSize = 64,
            };
            Assert.True(transport.Group.TryClaimForDriver("driver", out _));
            var device = await rig.Virtio.AddAsync(parent, transport);
            Assert.Equal("virtio_net", device.Driver?.Name);
            Assert.Equal(settled | Bits(VirtioFeatures.VIRTIO_F_VERSION_1), transport.Settled);
            await rig.Virtio.RemoveAsync(device).In();
        }

        static VirtioFeatures Bits(params ReadOnlySpan<int> bits) => VirtioFeatures.Of(bits);
    }

    [Fact]
    public async Task All_pairs_of_the_device_are_used()
    {
        await using var rig = await VirtioRig.StartAsync();
        var left = await AddAsync(rig, Left, pairs: 12);
        Assert.Equal((12, 12), (left.Device.Queues, left.Device.MaxQueues));
        Assert.Equal(12, left.Model.QueuePairs);
        var right = await AddAsync(rig, Right, pairs: 12);
        var seen = new Receiver(OffloadKinds.All);
        right.Device.AddReceiver(seen);
        for (var flow = 0; flow < 200; flow++)
        {
            var bytes = new TransportFrame(false, true, Payload: 50).Build();
            BinaryPrimitives.WriteUInt16BigEndian(bytes.AsSpan(34), (ushort)(flow + 1000));
            await Deadline.UntilAsync(() => left.Device.TrySend(new EthernetFrame(bytes), out _), "room");
        }

        left.Device.Flush();
        await Deadline.UntilAsync(() => seen.Frames.Count == 200, "the frames");
        for (var i = 0; i < 12; i++)
            Assert.NotEqual("0\n", await ReadAsync(rig, left.Device, $"queues/tx-{i}/packets"));
    }

    [Fact]
    public async Task Batch_is_one_notification()
    {
        await using var rig = await VirtioRig.StartAsync();
        var left = await AddAsync(rig, Left);
        var right = await AddAsync(rig, Right);
        var seen = new Receiver(OffloadKinds.All);
        right.Device.AddReceiver(seen);
        var frame = new TransportFrame(false, true, Payload: 20).Build();
        for (var i = 0; i < 32; i++)
            Assert.True(left.Device.TrySend(new EthernetFrame(frame), out _));
        // The device has seen none of them.
        Assert.Equal(0UL, left.Model.Counters.SentFrames);
        left.Device.Flush();
        await Deadline.UntilAsync(() => seen.Frames.Count == 32, "the frames");
    }

    [Fact]
    public async Task Device_is_told_which_frames_are_wanted()
    {
        await using var rig = await VirtioRig.StartAsync();
        var left = await AddAsync(rig, Left);
        var right = await AddAsync(rig, Right);
        var seen = new Receiver(OffloadKinds.All);
        right.Device.AddReceiver(seen);
        const ulong other = 0x0200000000EE;
        const ulong group = 0x0100000000EE;
        Send(left.Device, Frame(other, 1));
        Send(left.Device, Frame(Right, 2, vlan: 7));
        Send(left.Device, Frame(group, 3));
        Send(left.Device, Frame(Right, 4));
        await Marks(3, 4);
        await right.Device.SetVlansAsync([7, 8]);
        await right.Device.SetVlansAsync([7]);
        Send(left.Device, Frame(Right, 5, vlan: 7));
        Send(left.Device, Frame(Right, 6, vlan: 8));
        Send(left.Device, Frame(Right, 7));
        await Marks(3, 4, 5, 7);
        await right.Device.SetPromiscuousAsync(true);
        Send(left.Device, Frame(other, 8));
        Send(left.Device, Frame(Right, 9, vlan: 8));
        await Marks(3, 4, 5, 7, 8, 9);
        await rig.Fabric.Tree.WriteAsync(right.Device.DevPath + "/address", "02:00:00:00:00:ee");
        await right.Device.SetPromiscuousAsync(false);
        Send(left.Device, Frame(Right, 10));
        Send(left.Device, Frame(other, 11));
        await Marks(3, 4, 5, 7, 8, 9, 11);
        Assert.Equal(other, right.Model.Settings.Filter.Mac);
        // All of it is so again after a sleep.
        await rig.Fabric.SuspendAsync().In();
        Assert.Equal(Right, right.Model.Settings.Filter.Mac);
        await rig.Fabric.ResumeAsync().In();
        Send(left.Device, Frame(Right, 12));
        Send(left.Device, Frame(other, 13, vlan: 7));
        await Marks(3, 4, 5, 7, 8, 9, 11, 13);

        async Task Marks(params int[] marks)
        {
            await Deadline.UntilAsync(() => seen.Frames.Any(f => f.Bytes[^1] == marks[^1]), $"frame {marks[^1]}");
            Assert.Equal(marks, seen.Frames.Select(static f => (int)f.Bytes[^1]));
        }
    }

    [Fact]
    public async Task Interface_tells_where_it_is_when_the_device_asks()
    {
        await using var rig = await VirtioRig.StartAsync();
        var left = await AddAsync(rig, Left);
        var right = await AddAsync(rig, Right);
        var seen = new Receiver(OffloadKinds.All);
        right.Device.AddReceiver(seen);
        Assert.True(left.Model.Announce());
        await Deadline.UntilAsync(() => !seen.Frames.IsEmpty, "the announcement");
        var frame = Assert.Single(seen.Frames).Bytes;
        Assert.Equal("FFFFFFFFFFFF0200000000018035000108000604000302000000000100000000020000000001", Convert.ToHexString(frame.AsSpan(0, 38)));
        Assert.Equal(60, frame.Length);
        var status = new byte[2];
        await Deadline.UntilAsync(() => left.Model.TryGetConfig(VirtioNetConfig.StatusOffset, status, out _) && status[0] == VirtioNetConfig.VIRTIO_NET_S_LINK_UP, "the acknowledgement");
    }

    private static void Send(NetDevice device, byte[] frame, FrameOffload offload = default) => Assert.True(device.TryTransmit(new EthernetFrame(frame, offload), out var fault), fault.Message);

    private static Task<string> ReadAsync(VirtioRig rig, NetDevice device, string file) => Task.FromResult(rig.Base.Read($"{device.DevPath}/{file}"));

    private static byte[] Frame(ulong to, byte mark, byte vlan = 0)
    {
        var frame = new byte[60];
        BinaryPrimitives.WriteUInt64BigEndian(frame, to << 16);
        BinaryPrimitives.WriteUInt64BigEndian(frame.AsSpan(6), Left << 16);
        (frame[12], frame[13], frame[15], frame[^1]) = (0x88, 0xB5, vlan, mark);
        if (vlan != 0)
            (frame[12], frame[13]) = (0x81, 0);
        return frame;
    }

    private async Task<(NetDevice Device, VirtioNetDevice Model)> AddAsync(VirtioRig rig, ulong mac, bool isPacked = false, int pairs = 1, bool offloads = true)
    {
        var model = new VirtioNetDevice($"net{mac & 0xFF}", _lan, new VirtioNetOptions(mac) { Packed = isPacked, QueuePairs = pairs, Offloads = offloads });
        var pci = await rig.PlugAsync(new VirtioFunction(model));
        return (NetSubsystem.Of(rig.Fabric).Class.Devices.OfType<NetDevice>().Single(n => n.Parent!.Parent == pci), model);
    }

    private sealed class Receiver(OffloadKinds takes) : IFrameReceiver
    {
        public OffloadKinds Takes => takes;

        public ConcurrentQueue<(byte[] Bytes, FrameOffload Offload)> Frames { get; } = new();

        public void Receive(NetDevice device, int queue, in EthernetFrame frame) => Frames.Enqueue((frame.Bytes.ToArray(), frame.Offload));
    }
}
