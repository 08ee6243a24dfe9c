using System.Buffers.Binary;
using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Drivers.VirtioNet;
using Virtbus.Ethernet;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Subsystems.Net;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>A network device that hands frames back without end, takes its time for each command, or says something else each time: who takes the interface down does not wait for it.</summary>
public sealed class VirtioNetLateTests : IAsyncLifetime
{
    private const int RingSize = 32;
    private const int HeaderSize = 12;
    private FabricRig _rig = null!;
    private FakeTransport _transport = null!;
    private DmaPort _port = null!;
    private VirtioBusDevice _device = null!;

    private NetDevice There => _device.Children.OfType<NetDevice>().Single();

    public async ValueTask InitializeAsync()
    {
        _rig = await FabricRig.StartAsync();
        await _rig.InitModuleAsync(new VirtioNetModule(), "virtio_net");
    }

    public ValueTask DisposeAsync() => _rig.DisposeAsync();

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Frames_without_end_keep_nobody_from_taking_the_interface_away(bool unbinds)
    {
        await AddAsync(VIRTIO_NET_F_MAC);
        var queue = _device.Queues[0];
        var frames = 0;
        // The device has the next one as soon as it gave one.
        There.AddReceiver(new Receiver(() => Answer(queue.Layout, ++frames)));
        Answer(queue.Layout, ++frames);
        var taking = Task.Run(queue.Interrupt, TestContext.Current.CancellationToken);
        // The thread that interrupts has other things to do.
        await taking.In();
        var before = Volatile.Read(ref frames);
        await Deadline.UntilAsync(() => Volatile.Read(ref frames) > before + 10_000, "frames");
        if (unbinds)
            await _rig.Virtio.RemoveAsync(_device).In();
        else
            await There.SetUpAsync(false).In();
        var after = Volatile.Read(ref frames);
        Assert.Equal((after, 0L), (Volatile.Read(ref frames), _port.Faults));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Command_that_waits_for_its_answer_holds_up_neither_unbind_nor_sleep(bool sleeps)
    {
        await AddAsync(VIRTIO_NET_F_MAC, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_CTRL_VLAN);
        var setting = There.SetVlansAsync([.. Enumerable.Range(1, 4094).Select(static i => (ushort)i)]).AsTask();
        await Deadline.UntilAsync(() => _device.Queues[^1].FreeDescriptors < RingSize, "the command");
        Assert.False(setting.IsCompleted);
        // Its clock stands still, so no patience ends.
        if (sleeps)
            await _rig.Fabric.SuspendAsync().In();
        else
            await _rig.Virtio.RemoveAsync(_device).In();
        Assert.Equal(Errno.EIO, (await Assert.ThrowsAsync<VirtbusException>(() => setting.In())).Errno);
        if (!sleeps)
            return;
        await _rig.Fabric.ResumeAsync().In();
        Assert.True(There.IsUp);
        Assert.Empty(There.Vlans);
    }

    [Fact]
    public async Task Command_whose_queue_breaks_ends_at_once()
    {
        await AddAsync(VIRTIO_NET_F_MAC, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_CTRL_VLAN);
        var setting = There.SetVlansAsync([7]).AsTask();
        await Deadline.UntilAsync(() => _device.Queues[^1].FreeDescriptors < RingSize, "the command");
        _device.Queues[^1].Break(new Fault(Errno.EIO, "for a test"));
        Assert.Equal(Errno.EIO, (await Assert.ThrowsAsync<VirtbusException>(() => setting.In())).Errno);
    }

    [Fact]
    public async Task Device_that_takes_no_receive_mode_has_an_interface_all_the_same()
    {
        var adding = AddAsync(VIRTIO_NET_F_MAC, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_CTRL_RX);
        await Deadline.UntilAsync(
            () =>
            {
                _rig.Time.Advance(TimeSpan.FromSeconds(1));
                return adding.IsCompleted;
            },
            "the probe");
        await adding;
        Assert.True(There.IsUp);
        await Assert.ThrowsAsync<VirtbusException>(() => There.SetPromiscuousAsync(true).AsTask());
        Assert.False(There.IsPromiscuous);
    }

    [Fact]
    public async Task Checksum_that_is_said_to_be_right_counts_only_where_that_was_settled()
    {
        await AddAsync(VIRTIO_NET_F_MAC);
        var seen = new List<FrameFlags>();
        There.AddReceiver(new FlagReceiver(seen));
        Answer(_device.Queues[0].Layout, 1, FrameFlags.DataValid);
        _device.Queues[0].Interrupt();
        Assert.Equal([FrameFlags.None], seen);
    }

    [Fact]
    public async Task Frame_behind_one_that_breaks_the_queue_is_not_looked_at()
    {
        await AddAsync(VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF);
        var queue = _device.Queues[0];
        var frames = 0;
        There.AddReceiver(new Receiver(() => frames++));
        Answer(queue.Layout, 1);
        Answer(queue.Layout, 2, buffers: 0);
        Answer(queue.Layout, 3);
        queue.Interrupt();
        Assert.Equal((1, true), (frames, queue.IsBroken));
    }

    [Fact]
    public async Task Interrupt_that_nobody_asked_for_receives_nothing_of_a_queue_that_is_polled()
    {
        await AddAsync(VIRTIO_NET_F_MAC);
        var queue = _device.Queues[0];
        var frames = 0;
        There.AddReceiver(new Receiver(() => frames++));
        using (var poller = There.OpenPoller(0))
        {
            Answer(queue.Layout, 1);
            queue.Interrupt();
            Assert.Equal(0, frames);
            Assert.True(poller.Poll());
            Assert.False(poller.Poll());
            Assert.Equal(1, frames);
            Answer(queue.Layout, 2);
        }

        // What waited when polling ended.
        Assert.Equal(2, frames);
        Answer(queue.Layout, 3);
        queue.Interrupt();
        Assert.Equal(3, frames);
    }

    [Theory]
    [InlineData(64, OffloadKinds.Checksum | OffloadKinds.TcpV4)]
    [InlineData(16, OffloadKinds.Checksum)]
    public async Task Frames_that_no_queue_could_take_are_not_left_to_the_device(int size, OffloadKinds offloads)
    {
        await AddAsync(transport => transport.QueueSize = size, VIRTIO_NET_F_MAC, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4);
        Assert.Equal(offloads, There.Offloads);
    }

    [Fact]
    public async Task Device_that_asks_for_announcements_without_end_gets_one_at_a_time()
    {
        await AddAsync(VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE);
        for (var i = 0; i < 54; i++)
        {
            // At last while one is under way, so that it is asked for again.
            if (i == 50)
                await Deadline.UntilAsync(() => _device.Queues[^1].FreeDescriptors < RingSize, "the command");
            // The link tells when it was looked at.
            var isUp = i % 2 == 1;
            _transport.Config[6] = (byte)(VIRTIO_NET_S_ANNOUNCE | (isUp ? VIRTIO_NET_S_LINK_UP : 0));
            _transport.Change();
            await Deadline.UntilAsync(() => There.HasCarrier == isUp, "the look at the status");
        }

        await Deadline.UntilAsync(() => There.Statistics.TransmittedFrames > 0, "the announcement");
        await Deadline.UntilAsync(() => _device.Queues[^1].FreeDescriptors < RingSize, "the command");
        Assert.Equal(1, There.Statistics.TransmittedFrames);
        // No answer comes. It asked again since, and is told once more, by a queue that is broken now.
        _rig.Time.Advance(TimeSpan.FromSeconds(6));
        await _rig.Fabric.SettleAsync().In();
        // The last look may have come behind that.
        Assert.InRange(There.Statistics.TransmittedFrames, 2, 3);
        Assert.True(_device.Queues[^1].IsBroken);
    }

    [Theory]
    [InlineData(9000, 9000, 9000)]
    [InlineData(1000, 1000, 1000)]
    [InlineData(1500, 0, 68)]
    [InlineData(1500, 65535, 9004)]
    public async Task Largest_frame_of_the_device_is_the_interface_s_also_when_it_becomes_another_one(int first, int second, int mtu)
    {
        await AddAsync(
            transport =>
            {
                BinaryPrimitives.WriteUInt16LittleEndian(transport.Config.AsSpan(10), (ushort)first);
                transport.ConfigRead = offset =>
                {
                    if (offset == 10)
                        BinaryPrimitives.WriteUInt16LittleEndian(transport.Config.AsSpan(10), (ushort)second);
                };
            },
            VIRTIO_NET_F_MAC, VIRTIO_NET_F_MTU);
        Assert.Equal((mtu, mtu), (There.MaxMtu, There.Mtu));
    }

    private Task AddAsync(params int[] features) => AddAsync(static _ => { }, features);

    private async Task AddAsync(Action<FakeTransport> spoil, params int[] features)
    {
        _transport = new FakeTransport
        {
            VirtioType = 1,
            DeviceFeatures = VirtioFeatures.Of([VirtioFeatures.VIRTIO_F_VERSION_1, .. features]),
            Config = [2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 220, 5],
            QueueSize = RingSize,
            FreesQueues = true,
        };
        spoil(_transport);
        _port = new DmaPort("device", _transport.Group) { IsBusMaster = true };
        Assert.True(_transport.Group.TryClaimForDriver("driver", out _));
        _device = await _rig.Virtio.AddAsync(await _rig.Fabric.RegisterAsync(new Device("card")), _transport);
        Assert.Equal("virtio_net", _device.Driver?.Name);
    }

    // A frame of 60 bytes, in the buffer that was offered next.
    private void Answer(in RingLayout layout, int frame, FrameFlags flags = FrameFlags.None, byte buffers = 1)
    {
        Span<byte> bytes = stackalloc byte[HeaderSize];
        var place = (ulong)((frame - 1) % RingSize);
        if (!_port.TryRead(new Iova(layout.DriverArea.Value + 4 + (2 * place)), bytes[..2]))
            return;
        var head = BinaryPrimitives.ReadUInt16LittleEndian(bytes);
        _port.TryRead(new Iova(layout.DescriptorArea.Value + (16 * (ulong)head)), bytes);
        var address = BinaryPrimitives.ReadUInt64LittleEndian(bytes);
        bytes.Clear();
        (bytes[0], bytes[10]) = ((byte)flags, buffers);
        _port.TryWrite(new Iova(address), bytes);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, head);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[4..], HeaderSize + 60);
        _port.TryWrite(new Iova(layout.DeviceArea.Value + 4 + (8 * place)), bytes[..8]);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, (ushort)frame);
        _port.TryWrite(new Iova(layout.DeviceArea.Value + 2), bytes[..2]);
    }

    private sealed class FlagReceiver(List<FrameFlags> seen) : IFrameReceiver
    {
        public OffloadKinds Takes => OffloadKinds.All;

        public void Receive(NetDevice device, int queue, in EthernetFrame frame) => seen.Add(frame.Offload.Flags);
    }

    private sealed class Receiver(Action received) : IFrameReceiver
    {
        public void Receive(NetDevice device, int queue, in EthernetFrame frame) => received();
    }
}
