using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Virtio;

/// <summary>The driver side of a split ring against devices that behave and that do not.</summary>
public sealed class SplitDriverRingTests : IDisposable
{
    private const int Size = 8;
    private const ulong Base = 0x10000;
    private readonly HostMemory _memory;
    private readonly IoAddressSpace _space = new();
    private readonly StandaloneDma _dma = new("test");
    private readonly SplitDeviceRing _device = new();
    private readonly Stack<DescriptorChain> _spare = [];
    private SplitDriverRing _driver;

    public SplitDriverRingTests()
    {
        _memory = HostMemory.Allocate("virtbus-test", 0x10000, out var file);
        file.Dispose();
        Assert.True(_space.TryMap(new Iova(Base), 0x10000, _memory, 0, DmaAccess.ReadWrite, out _));
        _driver = Begin(inOrder: false);
    }

    public void Dispose()
    {
        _device.Stop();
        _space.Dispose();
        _memory.Dispose();
    }

    private SplitDriverRing Begin(bool inOrder)
    {
        _device.Stop();
        _driver = new SplitDriverRing(_memory, new Iova(Base), 0, Size, eventIndex: true, indirect: true, inOrder);
        _dma.Attach(_space);
        Assert.True(_device.TryStart(_driver.Layout, _dma.Port, default, out _));
        return _driver;
    }

    private int Add(int buffers = 1)
    {
        var head = _driver.Add([.. Enumerable.Range(0, buffers).Select(i => new DriverBuffer(new Iova(Base + 0x1000 + (ulong)i), 4, true))]);
        _driver.Publish();
        return head;
    }

    private DescriptorChain Take()
    {
        if (!_spare.TryPop(out var chain))
            chain = new DescriptorChain(32);
        Assert.True(_device.TryTake(chain, out _));
        return chain;
    }

    private void Complete(DescriptorChain chain, uint written)
    {
        _device.Complete(chain, written);
        _spare.Push(chain);
    }

    // What a device writes that has no ring of ours.
    private void Use(ushort at, uint id, uint written, ushort index)
    {
        var used = _driver.Layout.DeviceArea.Value - Base;
        Span<byte> element = stackalloc byte[8];
        BinaryPrimitives.WriteUInt32LittleEndian(element, id);
        BinaryPrimitives.WriteUInt32LittleEndian(element[4..], written);
        _memory.Write(used + 4 + (8 * (ulong)(at & (Size - 1))), element);
        Span<byte> word = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(word, index);
        _memory.Write(used + 2, word);
    }

    private void ExpectFault(string why)
    {
        Assert.False(_driver.TryTakeUsed(out _, out _, out var fault));
        Assert.Equal(Errno.EPROTO, fault.Errno);
        Assert.Contains(why, fault.Message, StringComparison.Ordinal);
        // It stands still from there on, also when the device comes to its senses.
        Use(0, 0, 0, 1);
        Assert.False(_driver.TryTakeUsed(out _, out _, out var again));
        Assert.Equal(fault, again);
        Assert.Equal(fault, _driver.Fault);
    }

    [Theory]
    [InlineData(8u)]
    [InlineData(0x10000u)]
    [InlineData(uint.MaxValue)]
    public void Device_that_names_a_descriptor_beyond_the_ring_is_at_fault(uint id)
    {
        Add();
        Use(0, id, 0, 1);
        ExpectFault("not out");
    }

    [Fact]
    public void Device_that_uses_what_is_not_out_is_at_fault()
    {
        Add(3);
        // In the middle of the chain.
        Use(0, 1, 0, 1);
        ExpectFault("not out");
    }

    [Fact]
    public void Device_that_uses_a_buffer_twice_is_at_fault()
    {
        Add();
        Add();
        Use(0, 0, 0, 1);
        Assert.True(_driver.TryTakeUsed(out _, out _, out _));
        Use(1, 0, 0, 2);
        ExpectFault("not out");
    }

    [Fact]
    public void Device_whose_used_index_jumps_is_at_fault()
    {
        Add();
        Use(0, 0, 0, 2);
        ExpectFault("more buffers than are out");
    }

    [Fact]
    public void Device_that_says_it_wrote_more_than_there_is_room_is_at_fault()
    {
        Add(2);
        Use(0, 0, 9, 1);
        ExpectFault("wrote more");
    }

    [Fact]
    public void Descriptors_come_back_whole_in_any_order_of_use()
    {
        var random = new Random(7);
        var held = new List<(DescriptorChain Chain, int Buffers)>();
        for (var round = 0; round < 100_000; round++)
        {
            var buffers = random.Next(1, 4);
            if (Add(buffers) >= 0)
                held.Add((Take(), buffers));
            if (held.Count == 0 || (_driver.FreeDescriptors > 2 && random.Next(2) == 0))
                continue;
            var which = random.Next(held.Count);
            Complete(held[which].Chain, (uint)(4 * held[which].Buffers));
            _device.Publish();
            Assert.True(_driver.TryTakeUsed(out var head, out var written, out _));
            Assert.Equal((held[which].Chain.Head, (uint)(4 * held[which].Buffers)), (head, written));
            held.RemoveAt(which);
            Assert.Equal(Size - held.Sum(h => h.Buffers), _driver.FreeDescriptors);
        }
    }

    [Fact]
    public void One_element_ends_a_batch_when_buffers_are_used_in_order()
    {
        Begin(inOrder: true);
        int[] heads = [Add(2), Add(), Add(3)];
        Use(0, (uint)heads[2], 5, 3);
        Assert.True(_driver.TryTakeUsed(out var head, out var written, out _));
        Assert.Equal((heads[0], 8u), (head, written));
        Assert.True(_driver.TryTakeUsed(out head, out written, out _));
        Assert.Equal((heads[1], 4u), (head, written));
        Assert.True(_driver.TryTakeUsed(out head, out written, out _));
        Assert.Equal((heads[2], 5u), (head, written));
        Assert.False(_driver.TryTakeUsed(out _, out _, out var fault));
        Assert.Equal(Fault.None, fault);
        Assert.Equal(Size, _driver.FreeDescriptors);
        // The next element is where the batch ended.
        var next = Add();
        Use(3, (uint)next, 4, 4);
        Assert.True(_driver.TryTakeUsed(out head, out _, out _));
        Assert.Equal(next, head);
    }

    [Fact]
    public void Device_that_uses_out_of_order_is_at_fault_when_order_was_agreed()
    {
        Begin(inOrder: true);
        Add();
        var second = Add();
        Use(0, (uint)second, 0, 1);
        ExpectFault("out of order");
    }

    [Fact]
    public void Driver_that_waits_is_told_of_what_came_before_it_waited()
    {
        Add();
        var chain = Take();
        Assert.False(_driver.RequestCalls(true));
        Complete(chain, 4);
        Assert.True(_device.Publish());
        Assert.True(_driver.RequestCalls(true));
    }

    [Fact]
    public void Requests_allocate_nothing()
    {
        DriverBuffer[] buffers = [new(new Iova(Base + 0x1000), 4, false), new(new Iova(Base + 0x1004), 4, true)];
        long before = 0;
        for (var i = 0; i < 30_000; i++)
        {
            if (i == 10_000)
                before = GC.GetAllocatedBytesForCurrentThread();
            _driver.Add(buffers);
            _driver.Publish();
            Complete(Take(), 4);
            _device.Publish();
            if (!_driver.TryTakeUsed(out _, out _, out _))
                Assert.Fail("no used buffer");
        }
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
    }
}
