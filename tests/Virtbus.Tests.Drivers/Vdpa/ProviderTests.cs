using System.Buffers.Binary;
using Virtbus.Block;
using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Memory;
using Virtbus.Models.VirtioBlk;
using Virtbus.Platform;
using Virtbus.Tests.Drivers.Adapter;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Drivers.Vdpa;

/// <summary>What every provider of vDPA devices promises by <see cref="IVdpaOps"/>: one behind an adapter's registers, one over a model.</summary>
public sealed class ProviderTests : IDisposable
{
    private const ulong Base = 0x10000;
    private const byte Driver = VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER;
    private const byte Settled = Driver | VirtioStatus.FEATURES_OK;
    private const byte Running = Settled | VirtioStatus.DRIVER_OK;
    private readonly MemoryBackend _medium = new(1 << 20);
    private readonly HostMemory _memory;
    private readonly IoAddressSpace _space = new();
    private readonly EventFd _kick = new();
    private readonly EventFd _call = new();
    private readonly EventFd _error = new();

    public ProviderTests()
    {
        _memory = HostMemory.Allocate("virtbus-test", 0x20000, out var file);
        file.Dispose();
        Assert.True(_space.TryMap(new Iova(Base), 0x20000, _memory, 0, DmaAccess.ReadWrite, out _));
    }

    public void Dispose()
    {
        _space.Dispose();
        _memory.Dispose();
        _medium.Dispose();
        _kick.Dispose();
        _call.Dispose();
        _error.Dispose();
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public Task Disk_is_brought_up_in_the_standards_order_and_no_step_can_be_skipped(bool adapter) => WithAsync(adapter, ops =>
    {
        Assert.Equal((VirtioDeviceId.VIRTIO_ID_BLOCK, 2), (ops.DeviceId, ops.QueueCount));
        Refused(Errno.EINVAL, ops.TrySetStatus(VirtioStatus.DRIVER, out var fault), fault);
        Refused(Errno.EINVAL, ops.TrySetStatus(Running, out fault), fault);
        Assert.True(ops.TrySetStatus(Driver, out _));
        Refused(Errno.EINVAL, ops.TrySetDriverFeatures(ops.DeviceFeatures | 1UL << 63, out fault), fault);
        Assert.True(ops.TrySetDriverFeatures(ops.DeviceFeatures, out _));
        var ring = SetUp(ops);
        Refused(Errno.EINVAL, ops.TrySetQueueReady(0, true, out fault), fault);
        Assert.True(ops.TrySetStatus(Settled, out _));
        Refused(Errno.EBUSY, ops.TrySetDriverFeatures(0, out fault), fault);
        Assert.True(ops.TrySetQueueReady(0, true, out _));
        Refused(Errno.EBUSY, ops.TrySetQueueSize(0, 8, out fault), fault);
        Refused(Errno.EBUSY, ops.TrySetQueueAddress(0, default, default, default, out fault), fault);
        Refused(Errno.EBUSY, ops.TrySetQueueState(0, default, out fault), fault);
        Assert.True(ops.TrySetStatus(Running, out _));
        Refused(Errno.EINVAL, ops.TrySetStatus(Settled, out fault), fault);
        ReadSector(ring);
        Assert.Equal(1, ops.GetQueueState(0).NextAvailable);
        Assert.True(ops.TrySetStatus(0, out _));
        Assert.Equal((0, 0ul, false), (ops.Status, ops.DriverFeatures, ops.IsQueueReady(0)));
    });

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public Task Queue_goes_on_where_another_left_it(bool adapter) => WithAsync(adapter, ops =>
    {
        var ring = Start(ops);
        for (var round = 1; round < 4; round++)
        {
            ReadSector(ring);
            Assert.True(ops.TrySetQueueReady(0, false, out _));
            var state = ops.GetQueueState(0);
            Assert.Equal(QueueState.Split((ushort)round), state);
            Assert.True(ops.TrySetQueueState(0, state, out _));
            Assert.True(ops.TrySetQueueReady(0, true, out _));
        }
        Assert.True(ops.TrySetQueueReady(0, false, out _));
        Assert.True(QueueState.TryPacked(1, availableWrap: true, 1, usedWrap: true, out var packed, out _));
        Assert.False(ops.TrySetQueueState(0, packed, out var fault) && ops.TrySetQueueReady(0, true, out fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
    });

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public Task Packed_queue_goes_on_where_another_left_it(bool adapter) => WithAsync(
        adapter,
        ops =>
        {
            var ring = Start(ops, packed: true, size: 7);
            for (var round = 1; round < 9; round++)
            {
                ReadSector(ring);
                Assert.True(ops.TrySetQueueReady(0, false, out _));
                var state = ops.GetQueueState(0);
                // Three descriptors a request.
                var (place, wrap) = ((ushort)(3 * round % 7), 3 * round / 7 % 2 == 0);
                Assert.True(QueueState.TryPacked(place, wrap, place, wrap, out var expected, out _));
                Assert.Equal(expected, state);
                Assert.True(ops.TrySetQueueState(0, state, out _));
                Assert.True(ops.TrySetQueueReady(0, true, out _));
            }

            Assert.True(ops.TrySetQueueReady(0, false, out _));
            Assert.False(ops.TrySetQueueState(0, QueueState.Split(1), out var fault) && ops.TrySetQueueReady(0, true, out fault));
            Assert.Equal(Errno.EINVAL, fault.Errno);
            Assert.Equal(QueueState.Beginning(isPacked: true), ops.GetQueueState(1));
        },
        packed: true);

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public Task Queue_waits_while_its_memory_is_gone_and_goes_on_when_it_is_back(bool adapter) => WithAsync(adapter, ops =>
    {
        var ring = Start(ops);
        ReadSector(ring);
        ops.SetAddressSpace(null);
        Assert.True(ops.IsQueueReady(0));
        Add(ring);
        Assert.False(ring.TryTakeUsed(out _, out _, out _));
        ops.SetAddressSpace(_space);
        Finish(ring);
        // A change of the space takes effect by itself.
        Assert.True(_space.TryUnmap(new Memory.Dma.IovaRange(new Iova(Base), 0x20000), out _, out _));
        Add(ring);
        Assert.False(ring.TryTakeUsed(out _, out _, out _));
        Assert.True(_space.TryMap(new Iova(Base), 0x20000, _memory, 0, DmaAccess.ReadWrite, out _));
        Finish(ring);
    });

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public Task Ring_error_is_signalled_and_the_device_asks_for_a_reset(bool adapter) => WithAsync(adapter, ops =>
    {
        var seen = 0;
        ops.SetQueueFaultCallback((queue, fault) => Interlocked.Exchange(ref seen, (queue << 16) | (int)fault.Errno));
        ops.SetQueueError(0, _error);
        var ring = Start(ops);
        ((SplitDriverRing)ring).Writer.AddHead(99);
        ring.Publish();
        _kick.Signal();
        Until(() => _error.TryRead(out _), "the error");
        Until(() => Volatile.Read(ref seen) != 0, "the fault");
        Assert.Equal((int)Errno.EPROTO, seen);
        Assert.NotEqual(0, ops.Status & VirtioStatus.DEVICE_NEEDS_RESET);
        ops.Reset();
        Assert.Equal(0, ops.Status);
        ReadSector(Start(ops));
    });

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public Task Queue_whose_user_filled_its_call_eventfd_can_be_stopped_all_the_same(bool adapter) => WithAsync(adapter, ops =>
    {
        var ring = Start(ops);
        ReadSector(ring);
        Blocking.Fill(_call);
        Add(ring);
        Until(() => ring.TryTakeUsed(out _, out _, out _), "a used buffer");
        // The queue's thread may wait in the signal by now; whoever stops it does not.
        Assert.True(ops.TrySetQueueReady(0, false, out _));
        ops.SetQueueCall(0, null);
        ops.BeginUse();
        Assert.Equal(0, ops.Status);
    });

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public Task Queue_of_a_number_that_there_is_not_is_the_callers_bug(bool adapter) => WithAsync(adapter, ops =>
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => ops.IsQueueReady(2));
        Assert.Throws<ArgumentOutOfRangeException>(() => ops.SetQueueCall(-1, null));
        Assert.Throws<ArgumentOutOfRangeException>(() => ops.KickQueue(2));
        Assert.Throws<ArgumentOutOfRangeException>(() => ops.GetQueueState(2));
    });

    [Fact]
    public async Task Bug_of_a_model_is_counted_at_its_device_and_on_the_bus()
    {
        var fabric = new Fabric();
        var bus = fabric.RegisterBus(new VdpaBus());
        var parent = await fabric.RegisterAsync(new VdpaFakeParent());
        using var ops = new VirtioDeviceOps(new VirtioBlkDevice("disk0", new BuggyDisk(), "serial"));
        await fabric.RegisterAsync(new VdpaDevice(bus, "disk0", parent, ops));
        Assert.Equal(0, bus.Faults.Count);
        Assert.Throws<VirtbusException>(() => fabric.Tree.Read("/bus/vdpa/devices/disk0/faults"));
        ops.SetAddressSpace(_space);
        var ring = Start(ops);
        Add(ring);
        Until(() => bus.Faults.Count == 1, "the bug is told");
        Assert.Equal("1\n", fabric.Tree.Read("/bus/vdpa/devices/disk0/faults"));
        Until(() => (ops.Status & VirtioStatus.DEVICE_NEEDS_RESET) != 0, "the device needs a reset");
    }

    private async Task WithAsync(bool adapter, Action<IVdpaOps> test, bool packed = false)
    {
        if (adapter)
        {
            await using var disk = await AdapterDisk.CreateAsync(_medium, "serial", 2, packed);
            disk.Ops.SetAddressSpace(_space);
            test(disk.Ops);
        }
        else
        {
            using var ops = new VirtioDeviceOps(new VirtioBlkDevice("disk0", _medium, "serial", 2, packed: packed));
            ops.SetAddressSpace(_space);
            test(ops);
        }
    }

    private static void Refused(Errno errno, bool done, Fault fault)
    {
        Assert.False(done);
        Assert.Equal(errno, fault.Errno);
    }

    private DriverRing SetUp(IVdpaOps ops, bool packed = false, int size = 16)
    {
        DriverRing ring = packed
            ? new PackedDriverRing(_memory, new Iova(Base), 0, size, eventIndex: true, indirect: true, inOrder: true)
            : new SplitDriverRing(_memory, new Iova(Base), 0, size, eventIndex: true, indirect: true, inOrder: true);
        Assert.True(ops.TrySetQueueSize(0, size, out _));
        Assert.True(ops.TrySetQueueAddress(0, ring.Layout.DescriptorArea, ring.Layout.DriverArea, ring.Layout.DeviceArea, out _));
        ops.SetQueueKick(0, _kick);
        ops.SetQueueCall(0, _call);
        return ring;
    }

    private DriverRing Start(IVdpaOps ops, bool packed = false, int size = 16)
    {
        Assert.True(ops.TrySetStatus(Driver, out _));
        Assert.True(ops.TrySetDriverFeatures(ops.DeviceFeatures, out _));
        Assert.True(ops.TrySetStatus(Settled, out _));
        var ring = SetUp(ops, packed, size);
        Assert.True(ops.TrySetQueueReady(0, true, out _));
        Assert.True(ops.TrySetStatus(Running, out _));
        return ring;
    }

    private void ReadSector(DriverRing ring)
    {
        Add(ring);
        Finish(ring);
    }

    private void Add(DriverRing ring)
    {
        Span<byte> header = stackalloc byte[16];
        BinaryPrimitives.WriteUInt64LittleEndian(header[8..], 1);
        _memory.Write(0x8000, header);
        ring.Add([new DriverBuffer(new Iova(Base + 0x8000), 16, false), new DriverBuffer(new Iova(Base + 0x9000), 512, true), new DriverBuffer(new Iova(Base + 0x8100), 1, true)]);
        ring.RequestCalls(true);
        if (ring.Publish())
            _kick.Signal();
    }

    private void Finish(DriverRing ring)
    {
        uint written = 0;
        Until(() => ring.TryTakeUsed(out _, out written, out _), "a used buffer");
        Assert.Equal(513u, written);
        Until(() => _call.TryRead(out _), "the call");
    }

    private static void Until(Func<bool> done, string what) => Assert.True(SpinWait.SpinUntil(done, TimeSpan.FromSeconds(20)), what);

    private sealed class VdpaFakeParent() : Device("simulator");

    private sealed class BuggyDisk : IBlockBackend, IBlockChannel
    {
        public event EventHandler? InfoChanged
        {
            add { }
            remove { }
        }

        public string Description => "buggy";

        public BlockInfo Info { get; } = new() { Capacity = 1 << 20, BlockSize = 512 };

        public int Depth => 1;

        public FileDescriptor? Completion => null;

        public BlockWays Ways => default;

        public IBlockChannel OpenChannel(int depth, bool ownsThread = true) => this;

        public bool Submit(BlockRequest request) => throw new InvalidOperationException("a bug");

        public void Commit()
        {
        }

        public BlockRequest? TryReap() => null;

        public void Wait(int milliseconds)
        {
        }

        public void Dispose()
        {
        }
    }
}
