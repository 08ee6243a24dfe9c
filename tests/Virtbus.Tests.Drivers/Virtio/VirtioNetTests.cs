using System.Collections.Concurrent;
using Virtbus.Buses.Pci;
using Virtbus.Ethernet;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioNet;
using Virtbus.Platform;
using Virtbus.Subsystems.Net;
using Virtbus.Virtio;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>Network devices on one switch, through functions, virtio_pci and virtio_net, as interfaces.</summary>
public sealed class VirtioNetTests
{
    private const ulong Left = 0x020000000001;
    private const ulong Right = 0x020000000002;

    [Theory]
    [InlineData(false, false, null, 1)]
    [InlineData(true, false, null, 1)]
    [InlineData(false, false, 0, 1)]
    [InlineData(true, false, 0, 2)]
    [InlineData(false, false, null, 2)]
    [InlineData(true, false, 2, 4)]
    [InlineData(false, true, null, 1)]
    [InlineData(false, true, 0, 1)]
    public async Task Frames_go_from_one_interface_to_the_other_as_they_were(bool isPacked, bool isLegacy, int? vectors, int pairs)
    {
        await using var rig = await VirtioRig.StartAsync();
        var lan = new EthernetSwitch();
        var (left, _) = await AddAsync(rig, lan, Left, isPacked, isLegacy, vectors, pairs);
        var (right, seen) = await AddAsync(rig, lan, Right, isPacked, isLegacy, vectors, pairs);
        Assert.Equal([isLegacy, isLegacy], rig.Base.Virtio.Devices.Select(static d => ((Buses.Virtio.VirtioBusDevice)d).IsLegacy));
        Assert.Equal([isPacked && !isLegacy, isPacked && !isLegacy], rig.Base.Virtio.Devices.Select(static d => ((Buses.Virtio.VirtioBusDevice)d).Has(VirtioFeatures.VIRTIO_F_RING_PACKED)));
        Assert.Equal((Left, Right), (left.Address, right.Address));
        // More than a queue holds, in several flows.
        var sent = Enumerable.Range(0, 1000).Select(i => Frame(Right, Left + (ulong)(i % 3 << 8), 14 + (i % 1500), (byte)i)).ToArray();
        for (var i = 0; i < sent.Length; i++)
        {
            // What a device has no buffers for waits in its port, and not without end.
            await Deadline.UntilAsync(() => seen.Count + 200 > i, "the frames before");
            await SendAsync(left, sent[i]);
        }

        await Deadline.UntilAsync(() => seen.Count >= sent.Length, "all frames");
        Assert.Equal(sent.Length, seen.Count);
        // Those of a flow in their order.
        Assert.Equal(Flows(sent), Flows([.. seen]));
        Assert.Equal((1000, 1000, 0), (left.Statistics.TransmittedFrames, right.Statistics.ReceivedFrames, right.Statistics.ReceiveDropped));
    }

    [Fact]
    public async Task Interface_says_what_the_device_says()
    {
        await using var rig = await VirtioRig.StartAsync();
        var lan = new EthernetSwitch();
        var model = new VirtioNetDevice("net0", lan, new VirtioNetOptions(Left) { Mtu = 9000, QueuePairs = 4 });
        var pci = await rig.Base.Pci.PlugAsync(new VirtioFunction(model), label: "net0").In();
        await rig.Fabric.SettleAsync().In();
        var there = Assert.Single(NetSubsystem.Of(rig.Fabric).Class.Devices.OfType<NetDevice>());
        Assert.Equal(("net0np0", 9000, true, true), (there.Name, there.MaxMtu, there.IsUp, there.HasCarrier));
        Assert.Equal(rig.Only.DevPath + "/net/net0np0", there.DevPath);
        Assert.Equal(rig.Only, there.Parent);
        Assert.Equal(1 + 4 + 1, pci.Vectors.Count);
        Assert.Equal(["input.0", "output.0", "input.1", "output.1", "input.2", "output.2", "input.3", "output.3", "control"], rig.Only.Queues.Select(static q => q.Name));
        // A frame of the largest size in both directions, over several buffers.
        Assert.Equal(9000, there.Mtu);
        var (right, seen) = await AddAsync(rig, lan, Right, mtu: 9000);
        await SendAsync(there, Frame(Right, Left, 9014, 7));
        await Deadline.UntilAsync(() => !seen.IsEmpty, "the frame");
        Assert.Equal(Frame(Right, Left, 9014, 7), Assert.Single(seen));
        Assert.Equal(1, right.Statistics.ReceivedFrames);
        model.SetLink(false);
        await Deadline.UntilAsync(() => !there.HasCarrier, "the carrier's end");
        model.SetLink(true);
        await Deadline.UntilAsync(() => there.HasCarrier, "the carrier");
    }

    [Fact]
    public async Task Small_MTU_of_the_device_is_the_interface_s()
    {
        await using var rig = await VirtioRig.StartAsync();
        var (left, _) = await AddAsync(rig, new EthernetSwitch(), Left, mtu: 1000);
        Assert.Equal((1000, 1000), (left.MaxMtu, left.Mtu));
        Assert.False(left.TryTransmit(Frame(Right, Left, 1019, 1), out var fault));
        Assert.Equal(Errno.EMSGSIZE, fault.Errno);
    }

    [Fact]
    public async Task Interface_that_is_down_gets_no_frames_and_sends_none()
    {
        await using var rig = await VirtioRig.StartAsync();
        var lan = new EthernetSwitch();
        var (left, _) = await AddAsync(rig, lan, Left);
        var (right, seen) = await AddAsync(rig, lan, Right);
        await right.SetUpAsync(false);
        await SendAsync(left, Frame(Right, Left, 100, 1));
        Assert.False(right.TryTransmit(Frame(Left, Right, 100, 1), out var fault));
        Assert.Equal(Errno.ENOTCONN, fault.Errno);
        await right.SetUpAsync(true);
        await SendAsync(left, Frame(Right, Left, 100, 2));
        await Deadline.UntilAsync(() => !seen.IsEmpty, "a frame");
        Assert.True(seen.Last()[14] == 2);
    }

    [Fact]
    public async Task Unbind_in_the_middle_of_traffic_leaves_nothing_and_a_bind_goes_on()
    {
        await using var rig = await VirtioRig.StartAsync();
        var lan = new EthernetSwitch();
        var (left, _) = await AddAsync(rig, lan, Left);
        await AddAsync(rig, lan, Right);
        var virtio = (Buses.Virtio.VirtioBusDevice)rig.Base.Virtio.Devices[0];
        var pci = (PciDevice)virtio.Parent!;
        Assert.True(rig.Base.Virtio.TryGetDriver(VirtioRig.Net, out var driver));
        for (var round = 0; round < 5; round++)
        {
            using var stop = new CancellationTokenSource();
            var sender = Task.Run(
                () =>
                {
                    while (!stop.IsCancellationRequested)
                        left.TryTransmit(Frame(Right, Left, 200, 1), out _);
                },
                TestContext.Current.CancellationToken);
            await Deadline.UntilAsync(() => left.Statistics.TransmittedFrames > 100, "frames");
            await rig.Fabric.UnbindAsync(driver, virtio.Name).In();
            await stop.CancelAsync();
            await sender.In();
            using (var map = pci.Dma.Snapshot())
                Assert.Equal((0, 0L), (map.Ranges.Length, pci.Dma.Faults));
            Assert.Single(NetSubsystem.Of(rig.Fabric).Class.Devices);
            await rig.Fabric.BindAsync(driver, virtio.Name).In();
            left = virtio.Children.OfType<NetDevice>().Single();
        }
    }

    [Fact]
    public async Task Pulled_in_the_middle_of_traffic_the_interface_goes_and_the_other_stays()
    {
        await using var rig = await VirtioRig.StartAsync();
        var lan = new EthernetSwitch();
        var (left, _) = await AddAsync(rig, lan, Left);
        var (right, seen) = await AddAsync(rig, lan, Right);
        using var stop = new CancellationTokenSource();
        var sender = Task.Run(
            () =>
            {
                while (!stop.IsCancellationRequested)
                    left.TryTransmit(Frame(Right, Left, 200, 1), out _);
            },
            TestContext.Current.CancellationToken);
        await Deadline.UntilAsync(() => seen.Count > 100, "frames");
        await rig.Base.Pci.SurpriseRemoveAsync((PciDevice)left.Parent!.Parent!).In();
        await stop.CancelAsync();
        await sender.In();
        Assert.Equal([right], NetSubsystem.Of(rig.Fabric).Class.Devices);
        Assert.True(right.TryTransmit(Frame(Left, Right, 100, 1), out _));
        Assert.DoesNotContain("broke", rig.Base.Log.Text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Sleep_keeps_the_interface_and_frames_flow_after_it()
    {
        await using var rig = await VirtioRig.StartAsync();
        var lan = new EthernetSwitch();
        var (left, _) = await AddAsync(rig, lan, Left, pairs: 2);
        var (_, seen) = await AddAsync(rig, lan, Right, pairs: 2);
        await rig.Fabric.SuspendAsync().In();
        Assert.False(left.IsUp);
        Assert.False(left.TryTransmit(Frame(Right, Left, 100, 1), out _));
        await rig.Fabric.ResumeAsync().In();
        await SendAsync(left, Frame(Right, Left, 100, 2));
        await Deadline.UntilAsync(() => !seen.IsEmpty, "the frame");
        Assert.Equal(Frame(Right, Left, 100, 2), Assert.Single(seen));
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    public async Task Polled_queue_is_received_on_its_user_s_thread_alone_and_by_interrupts_afterwards(bool isPacked, bool isLegacy)
    {
        await using var rig = await VirtioRig.StartAsync();
        var lan = new EthernetSwitch();
        var (left, _) = await AddAsync(rig, lan, Left, isPacked, isLegacy);
        var (right, seen) = await AddAsync(rig, lan, Right, isPacked, isLegacy);
        var threads = new ThreadNotes();
        right.AddReceiver(threads);
        using (var poller = right.OpenPoller(0))
        {
            Assert.Equal(Errno.EBUSY, Assert.Throws<VirtbusException>(() => right.OpenPoller(0)).Errno);
            // More than the queue has buffers, over several laps, with what was pulled together ending at any place.
            await OnThreadAsync(() => Exchange(left, seen, 1000, () => poller.Poll()), threads);
            await rig.Fabric.SuspendAsync().In();
            Assert.False(poller.Poll());
            await rig.Fabric.ResumeAsync().In();
            await OnThreadAsync(() => Exchange(left, seen, 300, () => poller.Poll()), threads);
            Assert.Equal(1300, right.Statistics.ReceivedFrames);
        }

        await SendAsync(left, Frame(Right, Left, 100, 9));
        await Deadline.UntilAsync(() => seen.Count == 1301, "the frame that is told of");
        using var again = right.OpenPoller(0);
        again.Dispose();
        Assert.Throws<ObjectDisposedException>(() => again.Poll());
    }

    [Fact]
    public async Task What_waits_when_polling_ends_is_received_and_a_poller_of_what_is_gone_finds_nothing()
    {
        await using var rig = await VirtioRig.StartAsync();
        var lan = new EthernetSwitch();
        var (left, _) = await AddAsync(rig, lan, Left);
        var (right, seen) = await AddAsync(rig, lan, Right, pairs: 2);
        var other = right.OpenPoller(1);
        var poller = right.OpenPoller(0);
        var refused = Assert.Throws<VirtbusException>(() => right.OpenPoller(2));
        Assert.Equal((Errno.EINVAL, true), (refused.Errno, refused.Message.Contains("from 0 to 1", StringComparison.Ordinal)));
        await SendAsync(left, Frame(Right, Left, 100, 1));
        poller.Dispose();
        other.Dispose();
        await Deadline.UntilAsync(() => seen.Count == 1, "the frame");
        poller = right.OpenPoller(0);
        await rig.Base.Pci.SurpriseRemoveAsync((PciDevice)right.Parent!.Parent!).In();
        Assert.False(poller.Poll());
        poller.Dispose();
    }

    // Sends so many, and takes them by the way that is given.
    private static void Exchange(NetDevice from, ConcurrentQueue<byte[]> seen, int frames, Func<bool> take)
    {
        var (before, sent) = (seen.Count, 0);
        while (seen.Count < before + frames)
        {
            Deadline.Until(
                () =>
                {
                    if (take())
                        return true;
                    if (sent == frames || sent - (seen.Count - before) >= 100 || !from.TryTransmit(Frame(Right, Left, 60 + sent, (byte)sent), out _))
                        return false;
                    sent++;
                    return true;
                },
                "frames");
        }
    }

    private static async Task OnThreadAsync(Action act, ThreadNotes threads)
    {
        threads.Seen.Clear();
        var thread = 0;
        await Task.Run(
            () =>
            {
                thread = Environment.CurrentManagedThreadId;
                act();
            },
            TestContext.Current.CancellationToken).In();
        Assert.Equal([thread], threads.Seen.Keys);
    }

    internal static async Task<(NetDevice Device, ConcurrentQueue<byte[]> Seen)> AddAsync(
        VirtioRig rig, EthernetSwitch lan, ulong mac, bool isPacked = false, bool isLegacy = false, int? vectors = null, int pairs = 1, int mtu = 1500)
    {
        var model = new VirtioNetDevice($"net{mac & 0xFF}", lan, new VirtioNetOptions(mac) { Packed = isPacked, QueuePairs = pairs, Mtu = mtu });
        var function = new VirtioFunction(model, new VirtioFunctionOptions { IsTransitional = isLegacy, Vectors = vectors });
        var device = await rig.PlugAsync(isLegacy ? SpoiledFunction.WithoutCapabilities(function) : function);
        var there = NetSubsystem.Of(rig.Fabric).Class.Devices.OfType<NetDevice>().Single(n => n.Parent!.Parent == device);
        var seen = new Receiver();
        there.AddReceiver(seen);
        return (there, seen.Frames);
    }

    internal static Task SendAsync(NetDevice device, byte[] frame) => Deadline.UntilAsync(
        () =>
        {
            if (device.TryTransmit(frame, out var fault))
                return true;
            Assert.Equal(Errno.ENOBUFS, fault.Errno);
            return false;
        },
        "room in the queue");

    internal static byte[] Frame(ulong destination, ulong source, int length, byte value)
    {
        var frame = new byte[length];
        frame.AsSpan().Fill(value);
        for (var i = 0; i < 6; i++)
        {
            frame[i] = (byte)(destination >> (40 - (8 * i)));
            frame[6 + i] = (byte)(source >> (40 - (8 * i)));
        }

        (frame[12], frame[13]) = (0x88, 0xB5);
        return frame;
    }

    internal static IEnumerable<string> Flows(byte[][] frames) =>
        frames.GroupBy(static f => Convert.ToHexString(f.AsSpan(6, 6))).OrderBy(static g => g.Key, StringComparer.Ordinal)
            .Select(static g => g.Key + ": " + string.Join(' ', g.Select(static f => Convert.ToHexString(System.Security.Cryptography.SHA256.HashData(f))[..8])));

    internal sealed class Receiver : IFrameReceiver
    {
        public ConcurrentQueue<byte[]> Frames { get; } = new();

        public void Receive(NetDevice device, int queue, in EthernetFrame frame) => Frames.Enqueue(frame.Bytes.ToArray());
    }

    private sealed class ThreadNotes : IFrameReceiver
    {
        internal ConcurrentDictionary<int, bool> Seen { get; } = new();

        public void Receive(NetDevice device, int queue, in EthernetFrame frame) => Seen[Environment.CurrentManagedThreadId] = true;
    }
}
