using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Virtio;

/// <summary>The driver side of a packed ring against devices that do not behave.</summary>
public sealed class PackedDriverRingTests : IDisposable
{
    private const int Size = 5;
    private const ulong Base = 0x10000;
    private const ushort Write = PackedRing.VIRTQ_DESC_F_WRITE;
    private const ushort Used = PackedRing.VIRTQ_DESC_F_AVAIL | PackedRing.VIRTQ_DESC_F_USED;
    private readonly HostMemory _memory;
    private PackedDriverRing _driver;

    public PackedDriverRingTests()
    {
        _memory = HostMemory.Allocate("virtbus-test", 0x10000, out var file);
        file.Dispose();
        _driver = Begin(inOrder: false);
    }

    public void Dispose() => _memory.Dispose();

    private PackedDriverRing Begin(bool inOrder) =>
        _driver = new PackedDriverRing(_memory, new Iova(Base), 0, Size, eventIndex: true, indirect: true, inOrder);

    private int Add(int buffers = 1)
    {
        var id = _driver.Add([.. Enumerable.Range(0, buffers).Select(i => new DriverBuffer(new Iova(Base + 0x1000 + (ulong)i), 4, true))]);
        _driver.Publish();
        return id;
    }

    // What a device writes that has no ring of ours.
    private void Use(int place, int id, uint written, int flags = Used | Write) =>
        _driver.Writer.WriteDescriptor(place, default, written, (ushort)id, (ushort)flags);

    private void ExpectFault(string why)
    {
        Assert.False(_driver.TryTakeUsed(out _, out _, out var fault));
        Assert.Equal(Errno.EPROTO, fault.Errno);
        Assert.Contains(why, fault.Message, StringComparison.Ordinal);
        // It stands still from there on, also when the device comes to its senses.
        Use(0, 0, 0);
        Assert.False(_driver.TryTakeUsed(out _, out _, out var again));
        Assert.Equal(fault, again);
        Assert.Equal(fault, _driver.Fault);
    }

    [Theory]
    [InlineData(Size)]
    [InlineData(0x8000)]
    [InlineData(0xffff)]
    public void Device_that_names_a_buffer_beyond_the_ring_is_at_fault(int id)
    {
        Add();
        Use(0, id, 0);
        ExpectFault("not out");
    }

    [Fact]
    public void Device_that_uses_a_buffer_twice_is_at_fault()
    {
        var id = Add();
        Add();
        Use(0, id, 0);
        Assert.True(_driver.TryTakeUsed(out _, out _, out _));
        Use(1, id, 0);
        ExpectFault("not out");
    }

    [Fact]
    public void Device_that_says_it_wrote_more_than_there_is_room_is_at_fault()
    {
        var id = Add(2);
        Use(0, id, 9);
        ExpectFault("wrote more");
    }

    [Theory]
    // As QEMU's devices say that they wrote.
    [InlineData(8, 8)]
    [InlineData(5, 5)]
    [InlineData(9, 0)]
    [InlineData(uint.MaxValue, 0)]
    public void Length_without_the_flag_of_a_write_counts_where_it_can_be_one(uint length, uint written)
    {
        var id = Add(2);
        Use(0, id, length, Used);
        Assert.True(_driver.TryTakeUsed(out _, out var counted, out _));
        Assert.Equal(written, counted);
    }

    [Fact]
    public void What_is_of_another_lap_is_not_used()
    {
        var id = Add();
        foreach (var flags in (int[])[0, PackedRing.VIRTQ_DESC_F_AVAIL, PackedRing.VIRTQ_DESC_F_USED])
        {
            Use(0, id, 0, flags);
            Assert.False(_driver.TryTakeUsed(out _, out _, out var fault));
            Assert.Equal(Fault.None, fault);
            Assert.False(_driver.RequestCalls(true));
        }

        Use(0, id, 0);
        Assert.True(_driver.RequestCalls(true));
        Assert.True(_driver.TryTakeUsed(out _, out _, out _));
    }

    [Fact]
    public void One_descriptor_ends_a_batch_when_buffers_are_used_in_order()
    {
        Begin(inOrder: true);
        int[] ids = [Add(2), Add(), Add(2)];
        Use(0, ids[2], 5);
        uint[] lengths = [8, 4, 5];
        for (var i = 0; i < 3; i++)
        {
            Assert.True(_driver.TryTakeUsed(out var id, out var written, out _));
            Assert.Equal((ids[i], lengths[i]), (id, written));
        }

        Assert.False(_driver.TryTakeUsed(out _, out _, out var fault));
        Assert.Equal(Fault.None, fault);
        Assert.Equal(Size, _driver.FreeDescriptors);
        // The next one is where the batch ended: at the beginning, in the next lap.
        var next = Add();
        Use(0, next, 4, Write);
        Assert.True(_driver.TryTakeUsed(out var last, out _, out _));
        Assert.Equal(next, last);
    }

    [Fact]
    public void Notification_says_where_the_driver_goes_on()
    {
        Assert.Equal(0x8000, _driver.NotificationPlace);
        Add(2);
        Assert.Equal(0x8002, _driver.NotificationPlace);
        Add(3);
        Assert.Equal(0, _driver.NotificationPlace);
    }
}
