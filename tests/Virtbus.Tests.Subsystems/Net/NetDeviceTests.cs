using System.Buffers.Binary;
using Virtbus.Core;
using Virtbus.Ethernet;
using Virtbus.Platform;
using Virtbus.Subsystems.Net;
using Virtbus.Tests.Ethernet;

namespace Virtbus.Tests.Subsystems.Net;

/// <summary>Interfaces of class net: what is left to their hardware and what is done before, queues and batches, and what they show.</summary>
public sealed class NetDeviceTests
{
    private const ulong Mac = 0x020000000001;
    private const OffloadKinds AllTcp = OffloadKinds.Checksum | OffloadKinds.TcpV4 | OffloadKinds.TcpV6 | OffloadKinds.Ecn;
    private readonly FakeNetOps _ops = new();

    [Theory]
    [InlineData(false, true)]
    [InlineData(true, true)]
    [InlineData(false, false)]
    [InlineData(true, false)]
    public async Task Sent_frame_is_cut_here_where_the_hardware_does_not(bool v6, bool tcp)
    {
        await using var rig = await FabricRig.StartAsync();
        var frame = new TransportFrame(v6, tcp);
        var device = await AddAsync(rig, new NetDeviceOptions(Mac, "p0", 1500) { TransmitOffloads = OffloadKinds.All });
        Assert.True(device.TryTransmit(new EthernetFrame(frame.Build(), frame.Offload), out _));
        Assert.Equal(frame.Build(), Assert.Single(_ops.Sent).Bytes);
        Assert.Equal(frame.Offload, _ops.Sent[0].Offload);
        _ops.Sent.Clear();
        await rig.Fabric.Tree.WriteAsync(device.DevPath + "/features/" + (tcp ? v6 ? "tx-tcp6-segmentation" : "tx-tcp-segmentation" : "tx-udp-segmentation"), "off");
        Assert.Equal(OffloadKinds.All & ~(tcp ? frame.Kind : OffloadKinds.UdpV4 | OffloadKinds.UdpV6), device.Offloads);
        Assert.True(device.TryTransmit(new EthernetFrame(frame.Build(), frame.Offload), out var fault));
        Assert.Equal((Fault.None, 3), (fault, _ops.Sent.Count));
        for (var i = 0; i < 3; i++)
        {
            frame.Check(_ops.Sent[i].Bytes, i * 1400, i < 2 ? 1400 : 1200, i);
            Assert.True((_ops.Sent[i].Offload with { HashReport = 0 }).IsNone);
        }

        Assert.Equal((4, 0), (device.Statistics.TransmittedFrames, device.Statistics.TransmitDropped));
        // A queue that is full in the middle loses the rest.
        _ops.Room = 1;
        Assert.False(device.TryTransmit(new EthernetFrame(frame.Build(), frame.Offload), out fault));
        Assert.Equal((Errno.ENOBUFS, 5, 1), (fault.Errno, device.Statistics.TransmittedFrames, device.Statistics.TransmitDropped));
    }

    [Fact]
    public async Task Driver_that_can_t_be_polled_is_said_to_be_one()
    {
        await using var rig = await FabricRig.StartAsync();
        var device = await AddAsync(rig, new NetDeviceOptions(Mac, "p0", 1500));
        for (var i = 0; i < 2; i++)
            Assert.Equal(Errno.EOPNOTSUPP, Assert.Throws<VirtbusException>(() => device.OpenPoller(0)).Errno);
    }

    [Fact]
    public async Task Hardware_without_checksums_gets_whole_frames_only()
    {
        await using var rig = await FabricRig.StartAsync();
        // Segments without checksums count as nothing.
        var device = await AddAsync(rig, new NetDeviceOptions(Mac, "p0") { TransmitOffloads = OffloadKinds.TcpV4 });
        Assert.Equal(OffloadKinds.None, device.Offloads);
        var frame = new TransportFrame(false, true, Payload: 700);
        var open = frame.Offload with { Segmentation = SegmentationType.None, SegmentSize = 0 };
        Assert.True(device.TryTransmit(new EthernetFrame(frame.Build(), open), out _));
        var sent = Assert.Single(_ops.Sent);
        Assert.Equal(0xFFFF, TransportFrame.Sum(sent.Bytes.AsSpan(frame.Transport), frame.PseudoSum(sent.Bytes, sent.Bytes.Length - frame.Transport)));
        Assert.Equal(FrameFlags.None, sent.Offload.Flags);
        Assert.Equal("off [fixed]\n", rig.Read(device.DevPath + "/features/tx-checksum-ip-generic"));
        await AssertRefusedAsync(rig, device, "features/tx-checksum-ip-generic", "on", Errno.EOPNOTSUPP);
        await AssertRefusedAsync(rig, device, "features/tx-checksum-ip-generic", "yes", Errno.EINVAL);
    }

    [Fact]
    public async Task Frames_that_do_not_fit_are_refused_and_counted()
    {
        await using var rig = await FabricRig.StartAsync();
        var device = await AddAsync(rig, new NetDeviceOptions(Mac, "p0", 1500) { TransmitOffloads = OffloadKinds.All });
        var frame = new TransportFrame(false, true);
        Assert.Equal(Errno.EMSGSIZE, Refused(new EthernetFrame(new byte[1519])));
        Assert.Equal(Errno.EMSGSIZE, Refused(new EthernetFrame(new byte[13])));
        // Its pieces are what the MTU is for.
        Assert.Equal(Errno.EMSGSIZE, Refused(new EthernetFrame(frame.Build(), frame.Offload with { SegmentSize = 1500 })));
        Assert.Equal(Errno.EINVAL, Refused(new EthernetFrame(frame.Build(), frame.Offload with { ChecksumStart = 12 })));
        Assert.Equal(Errno.EINVAL, Refused(new EthernetFrame(frame.Build(), frame.Offload with { Segmentation = SegmentationType.TcpV6 })));
        await device.SetUpAsync(false);
        Assert.Equal(Errno.ENOTCONN, Refused(new EthernetFrame(new byte[60])));
        Assert.Equal((0, 6), (_ops.Sent.Count, device.Statistics.TransmitDropped));

        Errno Refused(EthernetFrame bad)
        {
            Assert.False(device.TryTransmit(bad, out var fault));
            return fault.Errno;
        }
    }

    [Fact]
    public async Task Receiver_sees_nothing_that_it_does_not_take()
    {
        await using var rig = await FabricRig.StartAsync();
        var device = await AddAsync(rig, new NetDeviceOptions(Mac, "p0") { ReceiveOffloads = OffloadKinds.All, Queues = 2 });
        var (plain, all) = (new KeepingReceiver(), new KeepingReceiver(OffloadKinds.All));
        device.AddReceiver(plain);
        device.AddReceiver(all);
        var frame = new TransportFrame(false, true);
        device.Receive(1, new EthernetFrame(frame.Build(), frame.Offload));
        device.EndReceive(1);
        Assert.Equal((1, frame.Offload), (Assert.Single(all.Frames).Queue, all.Frames[0].Offload));
        Assert.Equal(frame.Build(), all.Frames[0].Bytes);
        Assert.Equal([1, 1, 1], plain.Frames.Select(static f => f.Queue));
        for (var i = 0; i < 3; i++)
            frame.Check(plain.Frames[i].Bytes, i * 1400, i < 2 ? 1400 : 1200, i);
        Assert.Equal([1, 1], plain.Ends.Concat(all.Ends));
        // One frame all the same, of that queue.
        Assert.Equal(("1\n", "0\n"), (rig.Read(device.DevPath + "/queues/rx-1/packets"), rig.Read(device.DevPath + "/queues/rx-0/packets")));
        all.Frames.Clear();
        await rig.Fabric.Tree.WriteAsync(device.DevPath + "/features/rx-gro-hw", "off");
        device.Receive(0, new EthernetFrame(frame.Build(), frame.Offload));
        Assert.Equal(3, all.Frames.Count);
    }

    [Fact]
    public async Task Received_nonsense_is_counted_and_given_to_nobody()
    {
        await using var rig = await FabricRig.StartAsync();
        var device = await AddAsync(rig, new NetDeviceOptions(Mac, "p0") { ReceiveOffloads = AllTcp });
        var seen = new KeepingReceiver(OffloadKinds.All);
        device.AddReceiver(seen);
        var frame = new TransportFrame(false, true);
        device.Receive(0, new EthernetFrame(new byte[13]));
        device.Receive(0, new EthernetFrame(new byte[EthernetFrame.MaxLength + 1]));
        device.CountReceiveError(0, isLength: true);
        Assert.Equal((3, 3, 0), Errors());
        device.Receive(0, new EthernetFrame(frame.Build(), frame.Offload with { ChecksumOffset = 60000 }));
        device.Receive(0, new EthernetFrame(frame.Build(), frame.Offload with { Flags = FrameFlags.None }));
        // The hardware did not say that it would leave that.
        var udp = new TransportFrame(false, false);
        device.Receive(0, new EthernetFrame(udp.Build(), udp.Offload));
        device.CountReceiveError(0, isLength: false);
        Assert.Equal((7, 3, 4), Errors());
        Assert.Equal("7 3 4", string.Join(' ', ((string[])["rx_errors", "rx_length_errors", "rx_frame_errors"]).Select(n => rig.Read($"{device.DevPath}/statistics/{n}").TrimEnd())));
        Assert.Empty(seen.Frames);
        await device.SetUpAsync(false);
        device.Receive(0, new EthernetFrame(new byte[60]));
        Assert.Equal((0, 1), (device.Statistics.ReceivedFrames, device.Statistics.ReceiveDropped));

        (long, long, long) Errors() => (device.Statistics.ReceiveErrors, device.Statistics.ReceiveLengthErrors, device.Statistics.ReceiveFrameErrors);
    }

    [Fact]
    public async Task Batch_is_told_of_once_for_each_queue_that_has_some_of_it()
    {
        await using var rig = await FabricRig.StartAsync();
        var device = await AddAsync(rig, new NetDeviceOptions(Mac, "p0") { Queues = 4 });
        var flows = Enumerable.Range(0, 64).Select(static i => Flow((ushort)(1000 + i))).ToArray();
        foreach (var flow in flows.Concat(flows))
            Assert.True(device.TrySend(new EthernetFrame(flow), out _));
        Assert.Empty(_ops.Flushed);
        device.Flush();
        device.Flush();
        Assert.Equal([0, 1, 2, 3], _ops.Flushed.Keys.Order());
        Assert.All(_ops.Flushed.Values, static count => Assert.Equal(1, count));
        // A flow has one queue, and all queues have some.
        Assert.All(_ops.Sent.GroupBy(static s => Convert.ToHexString(s.Bytes)), static g => Assert.Single(g.Select(static s => s.Queue).Distinct()));
        Assert.Equal([0, 1, 2, 3], _ops.Sent.Select(static s => s.Queue).Distinct().Order());
        Assert.Equal(128, Enumerable.Range(0, 4).Sum(i => int.Parse(rig.Read($"{device.DevPath}/queues/tx-{i}/packets"))));
        device.SetQueues(1);
        _ops.Sent.Clear();
        foreach (var flow in flows)
            device.TryTransmit(flow, out _);
        Assert.All(_ops.Sent, static s => Assert.Equal(0, s.Queue));
        Assert.Throws<ArgumentOutOfRangeException>(() => device.SetQueues(5));
        Assert.Throws<VirtbusException>(() => rig.Read(device.DevPath + "/queues/tx-1/packets"));
    }

    [Fact]
    public async Task What_was_asked_for_is_asked_of_hardware_again_that_was_asleep()
    {
        await using var rig = await FabricRig.StartAsync();
        var device = await AddAsync(rig, new NetDeviceOptions(Mac, "p0") { FiltersVlans = true });
        Assert.Equal(["open", "promiscuous False"], Calls());
        await device.SetPromiscuousAsync(true);
        await device.SetPromiscuousAsync(true);
        await rig.Fabric.Tree.WriteAsync(device.DevPath + "/vlans", "9 7");
        await rig.Fabric.Tree.WriteAsync(device.DevPath + "/address", "02:00:00:00:00:0a");
        Assert.Equal(["promiscuous True", "vlan 7 True", "vlan 9 True", "address 2000000000a"], Calls());
        Assert.Equal("7 9\n02:00:00:00:00:0a\n0x1103\n", rig.Read(device.DevPath + "/vlans") + rig.Read(device.DevPath + "/address") + rig.Read(device.DevPath + "/flags"));
        await device.SetPresentAsync(false);
        await rig.Fabric.Tree.WriteAsync(device.DevPath + "/vlans", "7");
        await device.SetPresentAsync(true);
        Assert.Equal(["stop", "open", "address 2000000000a", "promiscuous True", "vlan 7 True"], Calls());
        await device.SetPromiscuousAsync(false);
        Assert.Empty(Calls());
        await device.SetPromiscuousAsync(false);
        Assert.Equal(["promiscuous False"], Calls());
        await Assert.ThrowsAsync<InvalidOperationException>(() => device.SetPromiscuousAsync(false).AsTask());
        foreach (var (file, value, errno) in ((string, string, Errno)[])[
            ("vlans", "0", Errno.EINVAL), ("vlans", "4095", Errno.EINVAL), ("vlans", "x", Errno.EINVAL), ("address", "02:00", Errno.EINVAL),
            ("address", "01:00:00:00:00:0a", Errno.EADDRNOTAVAIL), ("address", "00:00:00:00:00:00", Errno.EADDRNOTAVAIL)])
            await AssertRefusedAsync(rig, device, file, value, errno);
        Assert.Empty(Calls());
        _ops.Refuses = new VirtbusException(Errno.EIO, "no");
        await AssertRefusedAsync(rig, device, "address", "02:00:00:00:00:0b", Errno.EIO);
        await Assert.ThrowsAsync<VirtbusException>(() => device.SetPromiscuousAsync(true).AsTask());
        Assert.Equal((0x02000000000AUL, false), (device.Address, device.IsPromiscuous));
        _ops.Refuses = null;

        string[] Calls()
        {
            string[] calls = [.. _ops.Calls];
            _ops.Calls.Clear();
            return calls;
        }
    }

    [Fact]
    public async Task Interface_that_is_taken_out_is_not_brought_up_again()
    {
        await using var rig = await FabricRig.StartAsync();
        var device = await AddAsync(rig, new NetDeviceOptions(Mac, "p0"));
        await NetSubsystem.Of(rig.Fabric).UnregisterAsync(device);
        Assert.Equal("stop", _ops.Calls[^1]);
        var refusal = await Assert.ThrowsAsync<VirtbusException>(() => device.SetUpAsync(true).AsTask());
        Assert.Equal((Errno.ENODEV, false), (refusal.Errno, device.TryTransmit(new byte[60], out _)));
    }

    private async Task<NetDevice> AddAsync(FabricRig rig, NetDeviceOptions options)
    {
        var device = await NetSubsystem.Of(rig.Fabric).RegisterAsync(await rig.Fabric.RegisterAsync(new Device("card")), _ops, options);
        await device.SetUpAsync(true);
        return device;
    }

    private static async Task AssertRefusedAsync(FabricRig rig, NetDevice device, string file, string value, Errno errno) =>
        Assert.Equal(errno, (await Assert.ThrowsAsync<VirtbusException>(() => rig.Fabric.Tree.WriteAsync($"{device.DevPath}/{file}", value).AsTask())).Errno);

    private static byte[] Flow(ushort port)
    {
        var frame = new TransportFrame(false, true, Payload: 20);
        var bytes = frame.Build();
        BinaryPrimitives.WriteUInt16BigEndian(bytes.AsSpan(frame.Transport), port);
        return bytes;
    }
}
