using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;
using static Virtbus.Virtio.VirtioCommonConfig;
using static Virtbus.Virtio.VirtioStatus;

namespace Virtbus.Tests.Virtio;

/// <summary>A driver suspends a device by its status and has it go on (VIRTIO 1.4, 3.4).</summary>
[Collection(nameof(ServiceThread))]
public sealed class VirtioSuspendTests : IVirtioRegisterHost, IVirtioRegisterAccess, IDisposable
{
    private const ulong Base = 0x10000;
    private const byte Settled = ACKNOWLEDGE | DRIVER | FEATURES_OK;
    private const byte Running = Settled | DRIVER_OK;
    private const byte Suspended = Settled | SUSPEND;
    private const int ConfigVector = 3;
    private readonly HostMemory _memory;
    private readonly IoAddressSpace _space = new();
    private readonly StandaloneDma _dma = new("test");
    private EchoDevice _device = new(queues: 2, "suspend");
    private VirtioConfigRegisters _registers;
    private VirtioRegisterTransport _driver;
    private SplitDriverRing _ring = null!;
    private int _raised;

    public VirtioSuspendTests()
    {
        _memory = HostMemory.Allocate("virtbus-test", 0x10000, out var file);
        file.Dispose();
        Assert.True(_space.TryMap(new Iova(Base), 0x10000, _memory, 0, DmaAccess.ReadWrite, out _));
        _dma.Attach(_space);
        (_registers, _driver) = Show();
    }

    int IVirtioRegisterHost.VectorLimit => 4;

    private int Raised => Volatile.Read(ref _raised);

    void IVirtioRegisterHost.Raise(ushort vector) => Interlocked.Or(ref _raised, 1 << vector);

    void IVirtioRegisterHost.Tell()
    {
    }

    void IVirtioRegisterAccess.Read(int offset, Span<byte> destination)
    {
        Span<byte> all = stackalloc byte[0x40];
        _registers.Read(all);
        all.Slice(offset, destination.Length).CopyTo(destination);
    }

    void IVirtioRegisterAccess.Write(int offset, ReadOnlySpan<byte> source)
    {
        Span<byte> value = stackalloc byte[8];
        value.Clear();
        source.CopyTo(value);
        _registers.Write(offset, source.Length, BinaryPrimitives.ReadUInt64LittleEndian(value));
    }

    void IVirtioRegisterAccess.ReadConfig(int offset, Span<byte> destination) => _registers.ReadConfig(offset, destination);

    void IVirtioRegisterAccess.WriteConfig(int offset, ReadOnlySpan<byte> source)
    {
    }

    public void Dispose()
    {
        _device.Dispose();
        _space.Dispose();
        _memory.Dispose();
    }

    [Fact]
    public void Suspended_device_leaves_its_rings_alone_and_a_kick_of_that_time_is_not_lost()
    {
        Start();
        for (var round = 0; round < 20; round++)
        {
            Echo($"round {round}");
            Assert.True(_driver.TrySuspend(out var fault), fault.Message);
            Assert.Equal((Suspended, true), (_device.Status, _device.IsSuspended));
            Offer("later");
            var before = Memory();
            Interlocked.Exchange(ref _raised, 0);
            _device.KickQueue(0);
            Settle();
            Assert.Equal(before, Memory());
            Assert.Equal(0, Raised);
            Assert.True(_driver.TryResume(out fault), fault.Message);
            Assert.Equal((Running, false), (_device.Status, _device.IsSuspended));
            Await("later");
        }
    }

    [Fact]
    public void What_is_in_work_is_done_and_told_before_the_status_says_it()
    {
        Use(new EchoDevice(2, "suspend") { HoldsBack = true });
        Start();
        Offer("held");
        _device.KickQueue(0);
        Deadline.Until(() => _device.Held == 1, "the request to be in work");
        Assert.Equal(0, Raised);
        _device.Draining = () => Assert.Equal(Running, _device.Status);
        Status(Running | SUSPEND);
        Assert.Equal(Suspended, _device.Status);
        Assert.True(_ring.TryTakeUsed(out _, out _, out _));
        Assert.Equal(1 << 1, Raised);
    }

    [Fact]
    public void Bit_is_ignored_until_the_device_is_set_up_and_the_rest_of_the_write_is_not()
    {
        Status(SUSPEND);
        Assert.Equal(0, _device.Status);
        Status(ACKNOWLEDGE | DRIVER | SUSPEND);
        Assert.Equal(ACKNOWLEDGE | DRIVER, _device.Status);
        Assert.True(_driver.TrySetDriverFeatures(Features, out _));
        Status(Settled | SUSPEND);
        Assert.Equal(Settled, _device.Status);
        Status(Running | SUSPEND);
        Assert.Equal(Running, _device.Status);
        Status(Running | SUSPEND);
        Assert.Equal(Suspended, _device.Status);
    }

    [Fact]
    public void Driver_that_did_not_take_the_feature_suspends_nothing()
    {
        Start(Features.Without(VirtioFeatures.VIRTIO_F_SUSPEND));
        Status(Running | SUSPEND);
        Assert.Equal(Running, _device.Status);
        Assert.False(_driver.TrySuspend(out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.False(_driver.TryResume(out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        // Nor does one of another transport, by the device itself.
        Assert.False(_device.TrySetStatus(Running | SUSPEND, out fault));
        Assert.Equal((Errno.EINVAL, Running), (fault.Errno, _device.Status));
        Echo("as before");
    }

    [Fact]
    public void Configuration_stays_as_it_is_and_its_change_is_told_when_the_device_goes_on()
    {
        Start();
        _device.SetNumber(1);
        Assert.True(_driver.TrySuspend(out _));
        var generation = _driver.ConfigGeneration;
        Interlocked.Exchange(ref _raised, 0);
        _device.SetNumber(2);
        _device.SetNumber(3);
        Assert.Equal((1u, generation, 0), (Number(), _driver.ConfigGeneration, Raised));
        Assert.False(_device.TrySetConfig(0, [1], out var fault));
        Assert.Equal(Errno.EBUSY, fault.Errno);
        Assert.False(_device.TryGetConfig(5, new byte[4], out fault));
        // What is told is told by a device that runs.
        Assert.True(_driver.TryResume(out _));
        Assert.Equal((3u, 1 << ConfigVector), (Number(), Raised));
        Assert.NotEqual(generation, _driver.ConfigGeneration);
        // Once.
        Interlocked.Exchange(ref _raised, 0);
        Assert.True(_driver.TrySuspend(out _));
        Assert.True(_driver.TryResume(out _));
        Assert.Equal(0, Raised);
    }

    [Fact]
    public void Registers_but_for_the_status_take_nothing_meanwhile()
    {
        Start();
        Assert.True(_driver.TrySuspend(out _));
        Span<byte> before = stackalloc byte[0x40];
        Span<byte> after = stackalloc byte[0x40];
        _driver.Select(0);
        _registers.Read(before);
        for (var offset = 0; offset < 0x40; offset++)
        {
            if (offset is device_feature_select or driver_feature_select or device_status or queue_select)
                continue;
            foreach (var size in (int[])[1, 2, 4, 8])
                _registers.Write(offset, size, 1);
        }

        _registers.Read(after);
        Assert.Equal(before.ToArray(), after.ToArray());
        // Selectors only say what is read.
        _driver.Select(1);
        Assert.Equal(64, _driver.QueueSize);
        Assert.True(_driver.TryResume(out _));
        Echo("as before");
    }

    [Fact]
    public void Status_of_a_suspended_device_takes_what_any_takes_and_goes_on_with_the_bit_or_without()
    {
        Start();
        Assert.True(_driver.TrySuspend(out _));
        foreach (var status in (byte[])[Suspended, Settled, ACKNOWLEDGE, DRIVER_OK, Suspended | 32])
        {
            Status(status);
            Assert.Equal(Suspended, _device.Status);
        }

        Status(Running);
        Assert.Equal(Running, _device.Status);
        Status(Running | SUSPEND);
        Status(Running | SUSPEND);
        Assert.Equal(Running, _device.Status);
        Status(Running | SUSPEND);
        Status(Suspended | FAILED);
        Assert.Equal(Suspended | FAILED, _device.Status);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Reset_ends_it(bool isPolled)
    {
        Start();
        Assert.True(_driver.TrySuspend(out _));
        _device.SetNumber(7);
        if (isPolled)
            _registers.BeginReset();
        else
            _registers.Reset();
        Assert.Equal((0, 7u), (_device.Status, Number()));
        Interlocked.Exchange(ref _raised, 0);
        Start();
        Echo("after it");
        Assert.Equal(0, Raised & (1 << ConfigVector));
        Assert.True(_driver.TrySuspend(out _));
        Assert.True(_driver.TryResume(out _));
        Assert.Equal(0, Raised & (1 << ConfigVector));
    }

    [Fact]
    public void Device_that_fails_on_the_way_needs_a_reset()
    {
        Use(new EchoDevice(2, "suspend") { HoldsBack = true });
        _device.Faults = new FaultSink().Open("suspend");
        Start();
        Offer("held");
        _device.KickQueue(0);
        Deadline.Until(() => _device.Held == 1, "the request to be in work");
        _device.Draining = () => throw new InvalidOperationException("bug");
        Assert.False(_driver.TrySuspend(out var fault));
        Assert.Equal(Errno.EIO, fault.Errno);
        Assert.NotEqual(0, _device.Status & DEVICE_NEEDS_RESET);
        Deadline.Until(() => (Raised & (1 << ConfigVector)) != 0, "the notice");
        _device.Draining = null;
        Assert.True(_driver.TryReset(out _));
        // And on the way back.
        Start();
        Assert.True(_driver.TrySuspend(out _));
        _device.ThrowsAtStart = new InvalidOperationException("bug");
        Interlocked.Exchange(ref _raised, 0);
        Assert.False(_driver.TryResume(out fault));
        Assert.Equal(Errno.EIO, fault.Errno);
        Assert.Equal(1 << ConfigVector, Raised & (1 << ConfigVector));
        Assert.Equal(Running | DEVICE_NEEDS_RESET, _device.Status);
    }

    [Fact]
    public void Pause_of_a_suspended_device_changes_nothing_and_neither_ends_the_other()
    {
        Start();
        Assert.True(_driver.TrySuspend(out _));
        Offer("later");
        _device.SetNumber(4);
        Assert.True(_device.TryPause(out _));
        Interlocked.Exchange(ref _raised, 0);
        _device.Resume();
        Settle();
        Assert.Equal((Suspended, 0), (_device.Status, Raised));
        Assert.False(_ring.TryTakeUsed(out _, out _, out _));
        // And one that is paused does what is asked of its status, and works when it goes on.
        Assert.True(_device.TryPause(out _));
        Assert.True(_driver.TryResume(out _));
        Assert.True(_driver.TrySuspend(out _));
        Assert.True(_driver.TryResume(out _));
        Settle();
        Assert.False(_ring.TryTakeUsed(out _, out _, out _));
        Assert.Equal(0, Raised);
        _device.Resume();
        Await("later");
        Assert.Equal(1 << ConfigVector, Raised & (1 << ConfigVector));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void State_of_a_suspended_device_comes_back_suspended(bool changes)
    {
        Start();
        _device.SetNumber(1);
        Echo("before");
        Assert.True(_driver.TrySuspend(out _));
        Offer("later");
        if (changes)
            _device.SetNumber(2);
        Assert.True(_device.TryPause(out _));
        var state = Save(out var registers);
        var generation = _driver.ConfigGeneration;
        _device.SetDma(null);
        Use(new EchoDevice(2, "suspend"));
        _device.SetNumber(2);
        Assert.True(_device.TryPause(out _));
        Assert.True(StateReader.TryRead(state, 1 << 16, out var reader, out _));
        Assert.True(_device.TryRestore(reader, out var fault), fault.Message);
        _registers.Restore(registers);
        Interlocked.Exchange(ref _raised, 0);
        _device.Resume();
        // Who comes back tells of what may have got lost: not yet.
        _registers.RaiseAll();
        Settle();
        Assert.Equal((Suspended, 1u, 0), (_device.Status, Number(), Raised));
        Assert.Equal(state.Length, SavedLength());
        generation = _driver.ConfigGeneration;
        Assert.True(_driver.TryResume(out fault), fault.Message);
        Await("later");
        Assert.Equal((2u, changes), (Number(), (Raised & (1 << ConfigVector)) != 0));
        Assert.NotEqual(0, Raised & (1 << 1));
        Assert.Equal(changes, generation != _driver.ConfigGeneration);
    }

    [Fact]
    public void State_that_no_suspended_device_has_is_refused()
    {
        Start();
        Assert.True(_driver.TrySuspend(out _));
        Assert.True(_device.TryPause(out _));
        var state = Save(out _);
        var status = state.AsSpan().IndexOf("virtio"u8) + "virtio".Length + 6;
        var flag = state.AsSpan().IndexOf("virtio-suspended"u8) + "virtio-suspended".Length;
        Assert.Equal(Suspended, state[status]);
        foreach (var (at, value) in ((int, byte)[])[(status, Suspended | DRIVER_OK), (status, ACKNOWLEDGE | DRIVER | SUSPEND), (status, Running), (flag, 2)])
        {
            var changed = (byte[])state.Clone();
            changed[at] = value;
            Assert.True(StateReader.TryRead(changed, 1 << 16, out var reader, out _));
            Assert.False(_device.TryRestore(reader, out var fault), $"{at}: {value}");
            Assert.Equal(Errno.EINVAL, fault.Errno);
        }

        // One that runs, called suspended, has no configuration to show.
        _device.Resume();
        Assert.True(_driver.TryResume(out _));
        Assert.True(_device.TryPause(out _));
        state = Save(out _);
        state[status] = Suspended;
        Assert.True(StateReader.TryRead(state, 1 << 16, out var other, out _));
        Assert.False(_device.TryRestore(other, out _));
        Assert.Equal(Running, _device.Status);
    }

    private static VirtioFeatures Features => VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1, VirtioFeatures.VIRTIO_F_SUSPEND);

    private void Use(EchoDevice device)
    {
        _device.Dispose();
        _device = device;
        (_registers, _driver) = Show();
    }

    private (VirtioConfigRegisters Registers, VirtioRegisterTransport Driver) Show()
    {
        _device.SetDma(_dma.Port);
        _registers = new VirtioConfigRegisters(_device, this, VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_SUSPEND));
        return (_registers, new VirtioRegisterTransport(this));
    }

    private void Start(VirtioFeatures? features = null)
    {
        Status(ACKNOWLEDGE);
        Status(ACKNOWLEDGE | DRIVER);
        Assert.True(_driver.TrySetDriverFeatures(features ?? Features, out _));
        Status(Settled);
        _registers.Write(config_msix_vector, 2, ConfigVector);
        _memory.Write(0, new byte[0x1000]);
        _ring = new SplitDriverRing(_memory, new Iova(Base), 0, 16, eventIndex: false, indirect: false);
        _driver.Select(0);
        _driver.SetQueueSize(16);
        _driver.SetQueueAddress(_ring.Layout.DescriptorArea, _ring.Layout.DriverArea, _ring.Layout.DeviceArea);
        Assert.True(_driver.TrySetQueueVector(1));
        Assert.True(_driver.TryEnable());
        Status(Running);
        Assert.Equal(Running, _device.Status);
    }

    private void Status(int value) => _registers.Write(device_status, 1, (byte)value);

    private void Echo(string text)
    {
        Offer(text);
        _device.KickQueue(0);
        Await(text);
    }

    private void Offer(string text)
    {
        _memory.Write(0xC000, System.Text.Encoding.ASCII.GetBytes(text));
        _memory.Write(0xD000, new byte[64]);
        _ring.Add([new DriverBuffer(new Iova(Base + 0xC000), (uint)text.Length, false), new DriverBuffer(new Iova(Base + 0xD000), 64, true)]);
        _ring.RequestCalls(true);
        _ring.Publish();
    }

    private void Await(string text)
    {
        Deadline.Until(() => _ring.TryTakeUsed(out _, out _, out _), "a used buffer");
        var answer = new byte[text.Length];
        _memory.Read(0xD000, answer);
        Assert.Equal(text, System.Text.Encoding.ASCII.GetString(answer));
        Deadline.Until(() => (Raised & (1 << 1)) != 0, "the vector");
    }

    private uint Number()
    {
        Span<byte> config = stackalloc byte[8];
        _registers.ReadConfig(0, config);
        Assert.Equal(BinaryPrimitives.ReadUInt32LittleEndian(config), BinaryPrimitives.ReadUInt32LittleEndian(config[4..]));
        return BinaryPrimitives.ReadUInt32LittleEndian(config);
    }

    private byte[] Memory()
    {
        var bytes = new byte[0x10000];
        _memory.Read(0, bytes);
        return bytes;
    }

    private byte[] Save(out byte[] registers)
    {
        var writer = new StateWriter();
        Assert.True(_device.TrySave(writer, out var fault), fault.Message);
        registers = new byte[_registers.SavedSize];
        _registers.Save(registers);
        return writer.ToArray();
    }

    private int SavedLength()
    {
        Assert.True(_device.TryPause(out _));
        var length = Save(out _).Length;
        _device.Resume();
        return length;
    }

    // A turn of each thread that queues are on: who was kicked before has had one.
    private static void Settle()
    {
        for (var i = 0; i < 2 * PollThreads.Shared.Count; i++)
        {
            var probe = new PollProbe();
            var client = PollThreads.Shared.Attach("settle", probe, [], new PollOptions { Thread = PollThreads.Shared[i % PollThreads.Shared.Count] });
            Deadline.Until(() => probe.Turns > 0, "a turn");
            client.Detach();
        }
    }
}
