using Virtbus.Block;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Models.VirtioBlk;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Models;

/// <summary>A virtio device gives its state to another one of its kind, which goes on where it was.</summary>
public sealed class VirtioStateTests : IDisposable
{
    private const ulong Base = 0x10000;
    private const int Size = 0x8000;
    private const ulong Input = 0x4000;
    private const ulong Output = 0x5000;
    private const int MaxSize = 1 << 16;
    private readonly HostMemory _memory;
    private readonly IoAddressSpace _space = new();

    public VirtioStateTests()
    {
        _memory = HostMemory.Allocate("virtbus-test", Size, out var file);
        file.Dispose();
        Assert.True(_space.TryMap(new Iova(Base), Size, _memory, 0, DmaAccess.ReadWrite, out _));
    }

    public void Dispose()
    {
        _space.Dispose();
        _memory.Dispose();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Queue_goes_on_in_another_device_where_it_stood_and_no_request_is_lost_or_doubled(bool packed)
    {
        var driver = RingForm.NewDriver(packed, _memory, Base, packed ? 15 : 16);
        using var source = new EchoDevice(2, packed: packed);
        Start(source, driver);
        for (var i = 0; i < 20; i++)
            Echo(driver, source, (byte)i);
        Assert.True(source.TryPause(out _));
        // What comes while it stands still is not touched, a kick included.
        Add(driver, 99);
        source.KickQueue(0);
        var state = Save(source);
        Assert.False(driver.TryTakeUsed(out _, out _, out _));
        source.Dispose();

        using var target = new EchoDevice(2, packed: packed);
        target.SetDma(Dma());
        Assert.True(target.TryPause(out _));
        Assert.True(Restore(target, state, out var fault), fault.Message);
        Assert.Equal(15, target.Status);
        // 40 descriptors of 15: two times around, and ten.
        Assert.True(QueueState.TryPacked(10, true, 10, true, out var place, out _));
        Assert.Equal(packed ? place : QueueState.Split(20), target.GetQueueState(0));
        Assert.Equal(QueueState.Beginning(packed), target.GetQueueState(1));
        Assert.True(target.IsQueueReady(0));
        Assert.False(target.IsQueueReady(1));
        Assert.Equal(state, Save(target));
        Assert.False(driver.TryTakeUsed(out _, out _, out _));
        target.Resume();
        Take(driver, 99);
        for (var i = 0; i < 20; i++)
            Echo(driver, target, (byte)(100 + i));
        // It counts its own requests only.
        Assert.Equal(21UL, target.GetQueueCounters(0).Requests);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Device_that_is_paused_and_resumed_goes_on_as_if_nothing_had_been(bool packed)
    {
        var driver = RingForm.NewDriver(packed, _memory, Base, packed ? 15 : 16);
        using var device = new EchoDevice(packed: packed);
        Start(device, driver);
        Echo(driver, device, 1);
        for (var i = 0; i < 3; i++)
        {
            Assert.True(device.TryPause(out _));
            Assert.True(device.TryPause(out _));
            Add(driver, 7);
            device.KickQueue(0);
            // A change of the map starts nothing that is to stand still.
            Assert.True(_space.TryMap(new Iova(0x100000), 0x1000, _memory, 0, DmaAccess.ReadWrite, out _));
            Assert.True(_space.TryUnmap(new IovaRange(new Iova(0x100000), 0x1000), out _, out _));
            Assert.False(driver.TryTakeUsed(out _, out _, out _));
            device.Resume();
            device.Resume();
            Take(driver, 7);
        }
    }

    [Fact]
    public void State_is_neither_read_from_nor_given_to_a_device_that_runs()
    {
        using var device = new EchoDevice();
        Assert.False(device.TrySave(new StateWriter(), out var fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        device.TryPause(out _);
        var state = Save(device);
        device.Resume();
        Assert.False(Restore(device, state, out fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
    }

    [Fact]
    public void State_that_does_not_fit_is_refused_by_section_and_the_device_stays_as_it_was()
    {
        var driver = new SplitDriverRing(_memory, new Iova(Base), 0, 16, eventIndex: false, indirect: false);
        using var device = new EchoDevice();
        Start(device, driver);
        Echo(driver, device, 1);
        device.TryPause(out _);
        var own = Save(device);
        using var two = new EchoDevice(2);
        two.TryPause(out _);
        using var medium = new MemoryBackend(1 << 20);
        using var disk = new VirtioBlkDevice("disk", medium, "S");
        disk.TryPause(out _);
        Refused(Save(two), "section 'virtio-queues', version 1, has 64 bytes instead of 32");
        Refused(Save(disk), "section 'virtio-blk', version 1, is not known here");
        // In section 'virtio': status; in 'virtio-queues': size, flags, place.
        var deviceAt = own.AsSpan().IndexOf("virtio"u8) + "virtio".Length;
        var queueAt = own.AsSpan().IndexOf("virtio-queues"u8) + "virtio-queues".Length;
        Refused(Changed(deviceAt, 43), "section 'virtio', version 1, is of a device of type 43; this one is of type 42");
        Refused(Changed(deviceAt + 4, 9), "section 'virtio', version 1, is of a device with 9 queues; this one has 1");
        Refused(Changed(deviceAt + 6, 7), "section 'virtio', version 1, has a status 0x7 that no driver can set");
        Refused(Changed(deviceAt + 8, 1), "section 'virtio', version 1, has features 0x1 that this device does not offer");
        Refused(Changed(queueAt + 24, 3), "section 'virtio-queues', version 1, has a queue 0 that such a device can't have");
        Refused(Changed(queueAt + 25, 1), "section 'virtio-queues', version 1, has a queue 0 that such a device can't have");
        Refused(Changed(queueAt + 26, 8), "section 'virtio-queues', version 1, has a queue 0 that such a device can't have");
        Refused(Changed(queueAt + 26, 5), "section 'virtio-queues', version 1, has a queue 0 that such a device can't have");
        Refused(Changed(queueAt + 30, 1), "section 'virtio-queues', version 1, has a queue 0 that such a device can't have");
        for (var length = 0; length < own.Length; length++)
            Assert.False(Restore(device, own[..length], out _));
        device.Resume();
        Echo(driver, device, 2);

        byte[] Changed(int at, byte value)
        {
            var changed = (byte[])own.Clone();
            changed[at] = value;
            return changed;
        }

        void Refused(byte[] state, string why)
        {
            Assert.False(Restore(device, state, out var fault));
            Assert.Equal(new Fault(Errno.EINVAL, why), fault);
            Assert.Equal(own, Save(device));
        }
    }

    [Fact]
    public void Disk_takes_its_cache_mode_along_and_no_smaller_medium()
    {
        using var medium = new MemoryBackend(1 << 20);
        using var small = new MemoryBackend(1 << 19);
        using var source = new VirtioBlkDevice("disk", medium, "S");
        Assert.True(source.TrySetStatus(ACKNOWLEDGE | DRIVER, out _));
        Assert.True(source.TrySetDriverFeatures(source.DeviceFeatures, out _));
        Assert.True(source.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK, out _));
        Assert.True(source.TrySetConfig(VirtioBlkConfig.WritebackOffset, [0], out _));
        source.TryPause(out _);
        var state = Save(source);
        using var target = new VirtioBlkDevice("disk", medium, "S");
        target.TryPause(out _);
        Assert.Equal(1, Writeback(target));
        Assert.True(Restore(target, state, out var fault), fault.Message);
        Assert.Equal(0, Writeback(target));
        using var other = new VirtioBlkDevice("disk", small, "S");
        other.TryPause(out _);
        Assert.False(Restore(other, state, out fault));
        Assert.Equal("section 'virtio-blk', version 1, is of a disk of 1048576 bytes; this one has 524288", fault.Message);
        Assert.Equal(0, other.Status);
    }

    [Fact]
    public void Disk_that_grew_on_the_way_is_told_when_it_goes_on()
    {
        using var medium = new MemoryBackend(1 << 20);
        using var large = new MemoryBackend(1 << 21);
        using var source = new VirtioBlkDevice("disk", medium, "S");
        source.TryPause(out _);
        var state = Save(source);
        using var same = new VirtioBlkDevice("disk", medium, "S");
        using var target = new VirtioBlkDevice("disk", large, "S");
        var notices = 0;
        foreach (var (disk, expected) in new[] { (same, 0), (target, 1) })
        {
            disk.SetConfigCallback(() => notices++);
            disk.TryPause(out _);
            Assert.True(Restore(disk, state, out var fault), fault.Message);
            Assert.Equal(source.ConfigGeneration + (uint)expected, disk.ConfigGeneration);
            // Who stands still raises nothing.
            Assert.Equal(0, notices);
            disk.Resume();
            Assert.Equal(expected, notices);
            disk.TryPause(out _);
            disk.Resume();
            Assert.Equal(expected, notices);
        }

        // It moves on before it was told: the next one tells.
        using var between = new VirtioBlkDevice("disk", large, "S");
        between.TryPause(out _);
        Assert.True(Restore(between, state, out _));
        using var last = new VirtioBlkDevice("disk", large, "S");
        last.SetConfigCallback(() => notices++);
        last.TryPause(out _);
        Assert.True(Restore(last, Save(between), out _));
        last.Resume();
        Assert.Equal(2, notices);
    }

    private static byte Writeback(VirtioBlkDevice disk)
    {
        var value = new byte[1];
        Assert.True(disk.TryGetConfig(VirtioBlkConfig.WritebackOffset, value, out _));
        return value[0];
    }

    private static byte[] Save(IMovableState device)
    {
        var writer = new StateWriter();
        Assert.True(device.TrySave(writer, out var fault), fault.Message);
        return writer.ToArray();
    }

    private static bool Restore(IMovableState device, byte[] state, out Fault fault) =>
        StateReader.TryRead(state, MaxSize, out var reader, out fault) && device.TryRestore(reader, out fault);

    private DmaPort Dma()
    {
        var dma = new StandaloneDma("test");
        dma.Attach(_space);
        return dma.Port;
    }

    private void Start(EchoDevice device, DriverRing driver)
    {
        device.SetDma(Dma());
        Assert.True(device.TrySetStatus(ACKNOWLEDGE | DRIVER, out _));
        var features = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1);
        Assert.True(device.TrySetDriverFeatures(driver.Layout.Packed ? features.With(VirtioFeatures.VIRTIO_F_RING_PACKED) : features, out _));
        Assert.True(device.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK, out _));
        var layout = driver.Layout;
        Assert.True(device.TrySetQueueSize(0, layout.Size, out _));
        Assert.True(device.TrySetQueueAddress(0, layout.DescriptorArea, layout.DriverArea, layout.DeviceArea, out _));
        Assert.True(device.TrySetQueueReady(0, true, out var fault), fault.Message);
        Assert.True(device.TrySetStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK, out _));
    }

    private void Echo(DriverRing driver, EchoDevice device, byte value)
    {
        Add(driver, value);
        device.KickQueue(0);
        Take(driver, value);
    }

    private void Add(DriverRing driver, byte value)
    {
        _memory.Write(Input, [value]);
        Assert.True(driver.Add([new DriverBuffer(new Iova(Base + Input), 1, false), new DriverBuffer(new Iova(Base + Output), 1, true)]) >= 0);
        driver.Publish();
    }

    private void Take(DriverRing driver, byte value)
    {
        var written = 0u;
        Assert.True(SpinWait.SpinUntil(() => driver.TryTakeUsed(out _, out written, out _), TimeSpan.FromSeconds(10)), "the request is not done");
        Assert.Equal(1u, written);
        var back = new byte[1];
        _memory.Read(Output, back);
        Assert.Equal(value, back[0]);
    }
}
