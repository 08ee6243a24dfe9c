using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Virtio;

/// <summary>A device behind registers and a driver in front of them, with no bus between.</summary>
[Collection(nameof(ServiceThread))]
public sealed class VirtioRegisterTests : IVirtioRegisterHost, IVirtioRegisterAccess, IDisposable
{
    private const ulong Base = 0x10000;
    private const byte Settled = VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER | VirtioStatus.FEATURES_OK;
    private readonly HostMemory _memory;
    private readonly IoAddressSpace _space = new();
    private readonly EchoDevice _device = new(queues: 2, "registers");
    private readonly VirtioConfigRegisters _registers;
    private readonly VirtioRegisterTransport _driver;
    private int _raised;
    private readonly StandaloneDma _dma = new("test");
    private int _told;
    private Action? _betweenConfigReads;
    private bool _isGone;

    public VirtioRegisterTests()
    {
        _memory = HostMemory.Allocate("virtbus-test", 0x10000, out var file);
        file.Dispose();
        Assert.True(_space.TryMap(new Iova(Base), 0x10000, _memory, 0, DmaAccess.ReadWrite, out _));
        _dma.Attach(_space);
        _device.SetDma(_dma.Port);
        _registers = new VirtioConfigRegisters(_device, this);
        _driver = new VirtioRegisterTransport(this);
    }

    int IVirtioRegisterHost.VectorLimit => 4;

    void IVirtioRegisterHost.Raise(ushort vector) => Interlocked.Or(ref _raised, 1 << vector);

    void IVirtioRegisterHost.Tell() => Interlocked.Increment(ref _told);

    void IVirtioRegisterAccess.Read(int offset, Span<byte> destination)
    {
        Span<byte> all = stackalloc byte[0x40];
        _registers.Read(all);
        if (_isGone)
            all.Fill(0xFF);
        all.Slice(offset, destination.Length).CopyTo(destination);
    }

    void IVirtioRegisterAccess.Write(int offset, ReadOnlySpan<byte> source)
    {
        Span<byte> value = stackalloc byte[8];
        value.Clear();
        source.CopyTo(value);
        if (!_isGone)
            _registers.Write(offset, source.Length, BinaryPrimitives.ReadUInt64LittleEndian(value));
    }

    // In words of 32 bits, as a bus has them.
    void IVirtioRegisterAccess.ReadConfig(int offset, Span<byte> destination)
    {
        for (var at = 0; at < destination.Length; at += 4)
        {
            _registers.ReadConfig(offset + at, destination.Slice(at, Math.Min(4, destination.Length - at)));
            _betweenConfigReads?.Invoke();
        }
    }

    void IVirtioRegisterAccess.WriteConfig(int offset, ReadOnlySpan<byte> source)
    {
    }

    public void Dispose()
    {
        _device.Dispose();
        _space.Dispose();
        _memory.Dispose();
    }

    private SplitDriverRing SetUp(int queue)
    {
        var ring = new SplitDriverRing(_memory, new Iova(Base), (ulong)queue * 0x4000, 16, eventIndex: false, indirect: false);
        _driver.Select(queue);
        _driver.SetQueueSize(16);
        _driver.SetQueueAddress(ring.Layout.DescriptorArea, ring.Layout.DriverArea, ring.Layout.DeviceArea);
        Assert.True(_driver.TrySetQueueVector((ushort)(queue + 1)));
        return ring;
    }

    private void Settle(params int[] features)
    {
        Assert.True(_driver.TrySetStatus(VirtioStatus.ACKNOWLEDGE, out _));
        Assert.True(_driver.TrySetStatus(VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER, out _));
        Assert.True(_driver.TrySetDriverFeatures(VirtioFeatures.Of(features), out _));
        Assert.True(_driver.TrySetStatus(Settled, out _));
    }

    private void Echo(SplitDriverRing ring, int queue, string text)
    {
        var bytes = System.Text.Encoding.ASCII.GetBytes(text);
        _memory.Write(0xC000, bytes);
        ring.Add([new DriverBuffer(new Iova(Base + 0xC000), (uint)bytes.Length, false), new DriverBuffer(new Iova(Base + 0xD000), 64, true)]);
        ring.RequestCalls(true);
        ring.Publish();
        _device.KickQueue(queue);
        uint written = 0;
        Deadline.Until(() => ring.TryTakeUsed(out _, out written, out _), "a used buffer");
        Assert.Equal((uint)bytes.Length, written);
        var answer = new byte[bytes.Length];
        _memory.Read(0xD000, answer);
        Assert.Equal(bytes, answer);
        Deadline.Until(() => (Interlocked.Exchange(ref _raised, 0) & (1 << (queue + 1))) != 0, "the vector");
    }

    [Fact]
    public void Features_that_are_refused_reset_nothing()
    {
        const byte Driver = VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER;
        Assert.True(_driver.TrySetStatus(VirtioStatus.ACKNOWLEDGE, out _));
        Assert.True(_driver.TrySetStatus(Driver, out _));
        _registers.Write(VirtioCommonConfig.driver_feature_select, 4, 0);
        _registers.Write(VirtioCommonConfig.driver_feature, 4, 1);
        // The bit that is refused is the only one of the write.
        _registers.Write(VirtioCommonConfig.device_status, 1, VirtioStatus.FEATURES_OK);
        Assert.Equal(Driver, _device.Status);
    }

    [Fact]
    public void Buffers_that_are_reached_by_messages_are_waited_for_on_no_thread_that_others_share()
    {
        const ulong Far = 0x80000;
        var peer = new Watched();
        Assert.True(_space.TryMap(new IovaRange(new Iova(Far), 0x1000), peer, DmaAccess.ReadWrite, out _));
        Settle(VirtioFeatures.VIRTIO_F_VERSION_1);
        var ring = SetUp(0);
        Assert.True(_driver.TryEnable());
        Assert.True(_driver.TrySetStatus(Settled | VirtioStatus.DRIVER_OK, out _));
        // The ring is here, as the first buffer is.
        Echo(ring, 0, "near");
        for (var i = 0; i < 3; i++)
        {
            ring.Add([new DriverBuffer(new Iova(Far), 8, false), new DriverBuffer(new Iova(Far + 0x800), 64, true)]);
            ring.Publish();
            _device.KickQueue(0);
            uint written = 0;
            Deadline.Until(() => ring.TryTakeUsed(out _, out written, out _), "a used buffer");
            Assert.Equal(8u, written);
        }

        Assert.True(peer.Calls > 0);
        Assert.Equal(0, peer.CallsOnShared);
        Echo(ring, 0, "near again");
        _registers.Reset();
        Assert.Equal(0, _device.Status);
    }

    [Fact]
    public void Queue_that_needs_a_thread_of_its_own_and_gets_none_breaks()
    {
        const ulong Far = 0x80000;
        Assert.True(_space.TryMap(new IovaRange(new Iova(Far), 0x1000), new Watched(), DmaAccess.ReadWrite, out _));
        Settle(VirtioFeatures.VIRTIO_F_VERSION_1);
        var ring = SetUp(0);
        Assert.True(_driver.TryEnable());
        Assert.True(_driver.TrySetStatus(Settled | VirtioStatus.DRIVER_OK, out _));
        ServiceThread.Refuses = static name => name == "registers-vq0";
        try
        {
            ring.Add([new DriverBuffer(new Iova(Far), 8, false), new DriverBuffer(new Iova(Far + 0x800), 64, true)]);
            ring.Publish();
            _device.KickQueue(0);
            Deadline.Until(() => (_device.Status & VirtioStatus.DEVICE_NEEDS_RESET) != 0, "the device needs a reset");
            // The status is there before the reason is.
            Deadline.Until(() => _registers.FaultOf(0) != Fault.None, "the reason");
            Assert.Equal(Errno.EAGAIN, _registers.FaultOf(0).Errno);
        }
        finally
        {
            ServiceThread.Refuses = null;
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Queue_that_cannot_start_is_told_of_and_who_changed_the_map_goes_on(bool isBug)
    {
        const ulong Later = 0x40000;
        Settle(VirtioFeatures.VIRTIO_F_VERSION_1);
        _driver.Select(0);
        _driver.SetQueueSize(16);
        // Its rings come later.
        _driver.SetQueueAddress(new Iova(Later), new Iova(Later + 0x1000), new Iova(Later + 0x2000));
        Assert.True(_driver.TryEnable());
        Assert.True(_driver.TrySetStatus(Settled | VirtioStatus.DRIVER_OK, out _));
        var faults = _device.Faults = new FaultSink().Open("registers");
        _device.ThrowsAtStart = isBug ? new InvalidOperationException("bug") : new VirtbusException(Errno.EMFILE, "no descriptor left");
        Assert.Equal(0, _device.Status & VirtioStatus.DEVICE_NEEDS_RESET);
        Assert.True(_space.TryMap(new Iova(Later), 0x10000, _memory, 0, DmaAccess.ReadWrite, out _));
        Assert.NotEqual(0, _device.Status & VirtioStatus.DEVICE_NEEDS_RESET);
        Assert.Equal(isBug ? Errno.EIO : Errno.EMFILE, _registers.FaultOf(0).Errno);
        Assert.Equal(isBug ? 1 : 0, faults.Count);
        // A reset mends it.
        _device.ThrowsAtStart = null;
        Assert.True(_driver.TryReset(out _));
        Settle(VirtioFeatures.VIRTIO_F_VERSION_1);
        var ring = SetUp(0);
        Assert.True(_driver.TryEnable());
        Assert.True(_driver.TrySetStatus(Settled | VirtioStatus.DRIVER_OK, out _));
        Echo(ring, 0, "well again");
    }

    [Fact]
    public void Device_that_is_disposed_begins_no_work()
    {
        Settle(VirtioFeatures.VIRTIO_F_VERSION_1);
        var ring = SetUp(0);
        Assert.True(_driver.TryEnable());
        ring.Add([new DriverBuffer(new Iova(Base + 0xC000), 4, false), new DriverBuffer(new Iova(Base + 0xD000), 64, true)]);
        ring.Publish();
        _device.Dispose();
        // A function goes while its driver writes a register.
        _driver.TrySetStatus(Settled | VirtioStatus.DRIVER_OK, out _);
        _device.KickQueue(0);
        using var never = new EventFd();
        Assert.False(never.Wait(TimeSpan.FromMilliseconds(100)));
        Assert.False(ring.TryTakeUsed(out _, out _, out _));
    }

    [Fact]
    public void Driver_brings_a_device_up_by_registers_alone_and_again_after_a_reset()
    {
        Assert.Equal(2, _driver.QueueCount);
        Assert.Equal(_device.DeviceFeatures, _driver.DeviceFeatures);
        for (var round = 0; round < 3; round++)
        {
            Settle(VirtioFeatures.VIRTIO_F_VERSION_1, EchoDevice.VIRTIO_ECHO_F_LOUD);
            Assert.Equal(VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1, EchoDevice.VIRTIO_ECHO_F_LOUD), _device.DriverFeatures);
            SplitDriverRing[] rings = [SetUp(0), SetUp(1)];
            for (var i = 0; i < 2; i++)
            {
                _driver.Select(i);
                Assert.True(_driver.TryEnable());
            }
            Assert.True(_driver.TrySetStatus(Settled | VirtioStatus.DRIVER_OK, out _));
            Echo(rings[0], 0, "first");
            Echo(rings[1], 1, "second");
            Assert.True(_driver.TryReset(out _));
            Assert.Equal(VirtioFeatures.None, _driver.DriverFeatures);
            Assert.False(_device.IsQueueReady(0));
        }
    }

    [Fact]
    public void Queues_that_are_enabled_early_begin_with_DRIVER_OK_and_none_is_enabled_before_the_features_are_settled()
    {
        Assert.True(_driver.TrySetStatus(VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER, out _));
        var ring = SetUp(0);
        Assert.False(_driver.TryEnable());
        Assert.Equal(Errno.EINVAL, _registers.FaultOf(0).Errno);
        Assert.True(_driver.TrySetDriverFeatures(VirtioFeatures.None, out _));
        Assert.True(_driver.TrySetStatus(Settled, out _));
        Assert.True(_driver.TryEnable());
        Assert.Equal(Fault.None, _registers.FaultOf(0));
        ring.Add([new DriverBuffer(new Iova(Base + 0xC000), 1, false), new DriverBuffer(new Iova(Base + 0xD000), 1, true)]);
        ring.Publish();
        _device.KickQueue(0);
        Assert.Equal(0ul, _device.GetQueueCounters(0).Requests);
        Assert.True(_driver.TrySetStatus(Settled | VirtioStatus.DRIVER_OK, out _));
        Deadline.Until(() => ring.TryTakeUsed(out _, out _, out _), "a used buffer");
    }

    [Fact]
    public void Device_holds_a_driver_that_skips_a_step()
    {
        // Past the driver's own check: what a bad guest writes.
        void Status(byte value) => _registers.Write(VirtioCommonConfig.device_status, 1, value);
        Status(15);
        Assert.Equal(0, _device.Status);
        Status(3);
        Status(7);
        Assert.Equal(3, _device.Status);
        Status(11);
        Status(3);
        Assert.Equal(11, _device.Status);
        _registers.Write(VirtioCommonConfig.driver_feature_select, 4, 1);
        _registers.Write(VirtioCommonConfig.driver_feature, 4, 1);
        Assert.Equal(VirtioFeatures.None, _driver.DriverFeatures);
        Status(0);
        Assert.Equal(0, _device.Status);
        // A feature that is not offered, though FEATURES_OK may be asked for.
        Status(3);
        _registers.Write(VirtioCommonConfig.driver_feature_select, 4, 0);
        _registers.Write(VirtioCommonConfig.driver_feature, 4, 1 << 5);
        Status(11);
        Assert.Equal((3, VirtioFeatures.None), (_device.Status, _device.DriverFeatures));
    }

    [Fact]
    public void Reset_forgets_the_registers_and_what_the_driver_before_was_not_told()
    {
        Settle();
        _registers.Write(VirtioCommonConfig.config_msix_vector, 2, 3);
        var ring = SetUp(0);
        Assert.True(_driver.TryEnable());
        Assert.True(_driver.TrySetStatus(Settled | VirtioStatus.DRIVER_OK, out _));
        ring.Writer.AddHead(99);
        ring.Publish();
        _device.KickQueue(0);
        Deadline.Until(() => Volatile.Read(ref _told) != 0, "the news");
        _device.SetNumber(5);
        Assert.True(_driver.TryReset(out _));
        Assert.False(_registers.TryTakeFault(out _, out _));
        Assert.False(_registers.TakeConfigChange());
        Assert.Equal(Fault.None, _registers.FaultOf(0));
        Span<byte> all = stackalloc byte[0x40];
        _registers.Read(all);
        Assert.Equal(VirtioCommonConfig.VIRTIO_MSI_NO_VECTOR, BinaryPrimitives.ReadUInt16LittleEndian(all[VirtioCommonConfig.config_msix_vector..]));
        Assert.Equal(VirtioCommonConfig.VIRTIO_MSI_NO_VECTOR, BinaryPrimitives.ReadUInt16LittleEndian(all[VirtioCommonConfig.queue_msix_vector..]));
        Assert.Equal(64, BinaryPrimitives.ReadUInt16LittleEndian(all[VirtioCommonConfig.queue_size..]));
        Assert.Equal(0ul, BinaryPrimitives.ReadUInt64LittleEndian(all[VirtioCommonConfig.queue_desc..]));
    }

    [Fact]
    public void Features_that_do_not_go_together_are_refused_at_FEATURES_OK()
    {
        Assert.True(_driver.TrySetStatus(VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER, out _));
        Assert.True(_driver.TrySetDriverFeatures(VirtioFeatures.Of(EchoDevice.VIRTIO_ECHO_F_LOUD, EchoDevice.VIRTIO_ECHO_F_QUIET), out _));
        Assert.False(_driver.TrySetStatus(Settled, out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.False(_driver.TrySetDriverFeatures(VirtioFeatures.Of(5), out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.True(_driver.TrySetDriverFeatures(VirtioFeatures.Of(EchoDevice.VIRTIO_ECHO_F_LOUD), out _));
        Assert.True(_driver.TrySetStatus(Settled, out _));
        Assert.False(_driver.TrySetDriverFeatures(VirtioFeatures.None, out fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
    }

    [Fact]
    public void Queue_that_is_enabled_keeps_its_size_and_place()
    {
        Settle();
        SetUp(0);
        Assert.True(_driver.TryEnable());
        _driver.SetQueueSize(8);
        _driver.SetQueueAddress(new Iova(1), new Iova(2), new Iova(3));
        Assert.Equal(16, _driver.QueueSize);
        Span<byte> all = stackalloc byte[0x40];
        _registers.Read(all);
        Assert.Equal(Base, BinaryPrimitives.ReadUInt64LittleEndian(all[VirtioCommonConfig.queue_desc..]));
    }

    [Fact]
    public void Configuration_that_changes_while_it_is_read_is_read_again()
    {
        _device.SetNumber(1);
        var left = 3;
        _betweenConfigReads = () =>
        {
            if (left-- > 0)
                _device.SetNumber((uint)left + 10);
        };
        var config = new byte[8];
        Assert.True(_driver.TryReadConfig(0, config, out _));
        Assert.Equal(BinaryPrimitives.ReadUInt32LittleEndian(config), BinaryPrimitives.ReadUInt32LittleEndian(config.AsSpan(4)));
        Assert.Equal(10u, BinaryPrimitives.ReadUInt32LittleEndian(config));
        // Before the first pass, and in two of them: all that changed between two looks counts once.
        Assert.Equal(3u, _driver.ConfigGeneration);

        _betweenConfigReads = () => _device.SetNumber(1);
        Assert.False(_driver.TryReadConfig(0, config, out var fault));
        Assert.Equal(Errno.EAGAIN, fault.Errno);
    }

    [Fact]
    public void Change_of_the_configuration_is_told_by_its_vector_once()
    {
        _registers.Write(VirtioCommonConfig.config_msix_vector, 2, 3);
        // A driver that is not there yet gets no interrupt, whose line nobody would take back.
        _device.SetNumber(1);
        Assert.Equal((0, 1), (_raised, _told));
        Settle();
        Assert.True(_driver.TrySetStatus(Settled | VirtioStatus.DRIVER_OK, out _));
        _registers.TakeConfigChange();
        _device.SetNumber(2);
        Assert.Equal((1 << 3, 2), (_raised, _told));
        Assert.True(_registers.TakeConfigChange());
        Assert.False(_registers.TakeConfigChange());
        // A vector that there is not reads back as none (4.1.5.1.2).
        _registers.Write(VirtioCommonConfig.config_msix_vector, 2, 4);
        _raised = 0;
        _device.SetNumber(3);
        Assert.Equal(0, _raised);
        _driver.Select(0);
        Assert.False(_driver.TrySetQueueVector(4));
    }

    [Fact]
    public void Ring_error_is_kept_for_the_driver_and_asks_for_a_reset()
    {
        Settle();
        var ring = SetUp(0);
        Assert.True(_driver.TryEnable());
        Assert.True(_driver.TrySetStatus(Settled | VirtioStatus.DRIVER_OK, out _));
        ring.Writer.AddHead(99);
        ring.Publish();
        _device.KickQueue(0);
        Deadline.Until(() => Volatile.Read(ref _told) != 0, "the news");
        Assert.True(_registers.TryTakeFault(out var queue, out var errno));
        Assert.Equal((0, Errno.EPROTO), (queue, errno));
        Assert.False(_registers.TryTakeFault(out _, out _));
        Assert.NotEqual(0, _driver.Status & VirtioStatus.DEVICE_NEEDS_RESET);
        Assert.True(_driver.TryReset(out _));
        Assert.Equal(0, _driver.Status);
    }

    [Fact]
    public void Device_that_is_gone_is_an_error_and_not_a_hang()
    {
        _isGone = true;
        Assert.False(_driver.TryReset(out var fault));
        Assert.Equal(Errno.ENODEV, fault.Errno);
        Assert.False(_driver.TrySetStatus(VirtioStatus.ACKNOWLEDGE, out _));
        Assert.False(_driver.TrySetDriverFeatures(VirtioFeatures.None, out _));
    }

    /// <summary>A peer's memory that sees on which threads it is waited for.</summary>
    private sealed class Watched : IRemoteMemory
    {
        private int _calls;
        private int _onShared;

        internal int Calls => Volatile.Read(ref _calls);

        internal int CallsOnShared => Volatile.Read(ref _onShared);

        public bool TryRead(Iova address, Span<byte> destination, out Fault fault)
        {
            destination.Clear();
            return Count(out fault);
        }

        public bool TryWrite(Iova address, ReadOnlySpan<byte> source, out Fault fault) => Count(out fault);

        private bool Count(out Fault fault)
        {
            Interlocked.Increment(ref _calls);
            if (PollThread.IsSharedCurrent)
                Interlocked.Increment(ref _onShared);
            fault = Fault.None;
            return true;
        }
    }
}
