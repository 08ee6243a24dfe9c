using Virtbus.Block;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Models.VirtioBlk;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Models;

/// <summary>Queues of a device, with rings of either form: chosen by features, set up, reset one by one, broken.</summary>
public sealed class VirtioQueueTests : IDisposable
{
    private const ulong Base = 0x10000;
    private const ulong Size = 0x10000;
    private readonly HostMemory _memory;
    private readonly IoAddressSpace _space = new();
    private readonly StandaloneDma _dma = new("test");

    public VirtioQueueTests()
    {
        _memory = HostMemory.Allocate("virtbus-test", Size, out var file);
        file.Dispose();
        Assert.True(_space.TryMap(new Iova(Base), Size, _memory, 0, DmaAccess.ReadWrite, out _));
        _dma.Attach(_space);
    }

    public void Dispose()
    {
        _space.Dispose();
        _memory.Dispose();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void One_queue_is_reset_and_set_up_anew_while_the_other_goes_on(bool packed)
    {
        using var device = new EchoDevice(2, packed: packed);
        Start(device, packed);
        DriverRing[] rings = [NewRing(packed, 0, 16), NewRing(packed, 1, 8)];
        SetUp(device, 0, rings[0]);
        SetUp(device, 1, rings[1]);
        Assert.True(device.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK, out _));
        var isOver = false;
        var done = 0;
        var traffic = new Thread(() =>
        {
            while (!Volatile.Read(ref isOver))
            {
                Echo(device, rings[0], 0);
                done++;
            }
        }) { IsBackground = true };
        traffic.Start();
        for (var round = 0; round < 20; round++)
        {
            for (var i = 0; i <= round % 3; i++)
                Echo(device, rings[1], 1);
            Assert.NotEqual(QueueState.Beginning(packed), device.GetQueueState(1));
            // What it has in work it hands back before.
            rings[1].Add([Buffer(1, 0, writes: false), Buffer(1, 1, writes: true)]);
            rings[1].Publish();
            device.ResetQueue(1);
            Assert.False(device.IsQueueReady(1));
            Assert.Equal(QueueState.Beginning(packed), device.GetQueueState(1));
            rings[1] = NewRing(packed, 1, 4 << (round % 3));
            SetUp(device, 1, rings[1]);
        }

        Volatile.Write(ref isOver, true);
        Assert.True(traffic.Join(Deadline.Milliseconds));
        Assert.True(done > 0);
        Assert.Equal(15, device.Status);
    }

    [Fact]
    public void Size_that_is_no_power_of_two_is_for_packed_rings()
    {
        using var device = new EchoDevice(packed: true);
        Assert.False(device.TrySetQueueSize(0, 7, out _));
        Start(device, packed: true);
        Assert.True(device.TrySetQueueSize(0, 7, out _));
        Assert.False(device.TrySetQueueSize(0, 65, out _));
        Assert.False(device.TrySetQueueSize(0, 0, out _));
        device.Reset();
        Start(device, packed: false);
        Assert.False(device.TrySetQueueSize(0, 7, out _));
    }

    [Fact]
    public void Form_of_the_ring_is_what_the_driver_took_and_a_place_of_the_other_one_is_refused()
    {
        using var device = new EchoDevice(packed: true);
        foreach (var packed in (bool[])[true, false, true])
        {
            device.Reset();
            Start(device, packed);
            var ring = NewRing(packed, 0, 16);
            Assert.True(QueueState.TryPacked(3, true, 3, true, out var other, out _));
            Assert.True(device.TrySetQueueState(0, packed ? QueueState.Split(3) : other, out _));
            var layout = ring.Layout;
            Assert.True(device.TrySetQueueSize(0, layout.Size, out _));
            Assert.True(device.TrySetQueueAddress(0, layout.DescriptorArea, layout.DriverArea, layout.DeviceArea, out _));
            Assert.True(device.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK, out _));
            Assert.False(device.TrySetQueueReady(0, true, out var fault));
            Assert.Equal(Errno.EINVAL, fault.Errno);
            Assert.True(device.TrySetQueueState(0, default, out _));
            Assert.True(device.TrySetQueueReady(0, true, out fault), fault.Message);
            Echo(device, ring, 0);
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Disk_with_packed_rings_does_what_it_is_asked_and_breaks_at_what_is_no_request(bool offers)
    {
        using var medium = new MemoryBackend(1 << 20);
        using var disk = new VirtioBlkDevice("disk", medium, "S", packed: offers);
        Assert.Equal(offers, disk.DeviceFeatures.Has(VirtioFeatures.VIRTIO_F_RING_PACKED));
        Assert.True(disk.DeviceFeatures.Has(VirtioFeatures.VIRTIO_F_IN_ORDER));
        using var user = new VirtioBlkUser(disk);
        Assert.Equal(offers, user.Driver.Ring is PackedDriverRing);
        var bytes = new byte[4096];
        var back = new byte[4096];
        for (var i = 0; i < 100; i++)
        {
            Random.Shared.NextBytes(bytes);
            Assert.Equal(0, user.Write((ulong)i * 8, bytes));
            Assert.Equal(0, user.Read((ulong)i * 8, back));
            Assert.Equal(bytes, back);
        }

        Assert.Equal(0, user.Flush());
        // A header that is too short.
        Assert.Throws<ExpectationException>(() => user.Driver.Request(new DriverBuffer(user.Driver.Take(4), 4, false)));
        Assert.Equal(DEVICE_NEEDS_RESET, disk.Status & DEVICE_NEEDS_RESET);
        user.Driver.Restart();
        Assert.Equal(0, user.Read(0, back));
    }

    [Theory]
    [InlineData(0x0000_0000u, false, 0, 0, false)]
    [InlineData(0xffff_0003u, false, 3, 0xffff, false)]
    [InlineData(0x8005_0001u, true, 1, 5, true)]
    [InlineData(0x7fff_ffffu, true, 0xffff, 0x7fff, false)]
    public void Notification_has_queue_place_and_wrap_where_the_standard_has_them(uint value, bool packed, int queue, int next, bool wrap)
    {
        var notification = VirtioNotification.Decode(value, packed);
        Assert.Equal(new VirtioNotification((ushort)queue, (ushort)next, wrap), notification);
        Assert.Equal(value, notification.Encode());
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Notification_of_a_driver_names_the_buffer_that_comes_next(bool packed)
    {
        var ring = NewRing(packed, 0, 8);
        for (var i = 0; i < 5; i++)
            Assert.True(ring.Add([Buffer(0, 0, writes: false)]) >= 0);
        var notification = VirtioNotification.Decode(2 | ((uint)ring.NotificationPlace << 16), packed);
        Assert.Equal(new VirtioNotification(2, 5, Wrap: packed), notification);
    }

    private static DriverBuffer Buffer(int queue, int which, bool writes) => new(new Iova(Base + 0x8000 + (ulong)((queue * 0x100) + (which * 0x80))), 1, writes);

    private void Start(EchoDevice device, bool packed)
    {
        device.SetDma(_dma.Port);
        var features = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1);
        Assert.True(device.TrySetStatus(ACKNOWLEDGE | DRIVER, out _));
        Assert.True(device.TrySetDriverFeatures(packed ? features.With(VirtioFeatures.VIRTIO_F_RING_PACKED) : features, out _));
        Assert.True(device.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK, out _));
    }

    private DriverRing NewRing(bool packed, int queue, int size) => packed
        ? new PackedDriverRing(_memory, new Iova(Base), (ulong)queue * 0x2000, size, eventIndex: false, indirect: false)
        : new SplitDriverRing(_memory, new Iova(Base), (ulong)queue * 0x2000, size, eventIndex: false, indirect: false);

    private void SetUp(EchoDevice device, int queue, DriverRing ring)
    {
        var layout = ring.Layout;
        Assert.True(device.TrySetQueueSize(queue, layout.Size, out _));
        Assert.True(device.TrySetQueueAddress(queue, layout.DescriptorArea, layout.DriverArea, layout.DeviceArea, out _));
        Assert.True(device.TrySetQueueReady(queue, true, out var fault), fault.Message);
    }

    private void Echo(EchoDevice device, DriverRing ring, int queue)
    {
        var value = (byte)Random.Shared.Next(256);
        _memory.Write(Buffer(queue, 0, false).Address.Value - Base, [value]);
        Assert.True(ring.Add([Buffer(queue, 0, writes: false), Buffer(queue, 1, writes: true)]) >= 0);
        if (ring.Publish())
            device.KickQueue(queue);
        Assert.True(SpinWait.SpinUntil(() => ring.TryTakeUsed(out _, out _, out _), TimeSpan.FromSeconds(10)), "the request is not done");
        var back = new byte[1];
        _memory.Read(Buffer(queue, 1, true).Address.Value - Base, back);
        Assert.Equal(value, back[0]);
    }
}
