using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Virtio;

/// <summary>A packed ring and its buffers in memory that changes, is logged, or is reached by messages only.</summary>
public sealed class PackedRingMemoryTests : IDisposable
{
    private const int Size = 5;
    private const ulong Page = 4096;
    private const ulong Base = 0x100000;
    private const ulong Pages = 16;

    private readonly IoAddressSpace _space = new();
    private readonly StandaloneDma _dma = new("test");
    private readonly HostMemory _memory;
    private readonly PackedDeviceRing _queue = new();
    private readonly DescriptorChain _chain = new(32);
    private PackedDriverRing _driver;

    public PackedRingMemoryTests()
    {
        _memory = HostMemory.Allocate("virtbus-test", Pages * Page, out var file);
        file.Dispose();
        _driver = new PackedDriverRing(_memory, new Iova(Base), 0, Size, eventIndex: false, indirect: true);
        _dma.Attach(_space);
    }

    public void Dispose()
    {
        _dma.Port.SetChangeCallback(null);
        _queue.Stop();
        _space.Dispose();
        _memory.Dispose();
    }

    [Fact]
    public void Unmap_waits_until_the_buffer_is_handed_back()
    {
        // Page by page, so that each can go.
        for (var page = 0UL; page < Pages; page++)
            Map(page, 1);
        _dma.Port.SetChangeCallback(change =>
        {
            Assert.False(_queue.DependsOn(change));
            _queue.WaitUntilUnused(change);
        });
        Start();
        _driver.Add([Readable(2 * Page, 16), Writable((3 * Page) + 100, 512)]);
        _driver.Publish();
        Assert.True(_queue.TryTake(_chain, out _));
        Unmap(4, 1);
        var unmap = new Thread(() => Unmap(3, 1)) { IsBackground = true };
        unmap.Start();
        Deadline.Until(() => !_dma.Port.TryRead(At(3 * Page), new byte[1]), "the page is out of reach");
        Assert.False(unmap.Join(50));
        Assert.Equal(4u, _chain.Write("late"u8));
        _queue.Complete(_chain, 4);
        Assert.True(unmap.Join(Deadline.Milliseconds));
        Assert.True(_queue.Publish());
    }

    [Fact]
    public void A_queue_depends_on_the_memory_of_each_part_of_its_ring()
    {
        Map(0, Pages);
        var layout = _driver.Layout with { DriverArea = At(3 * Page), DeviceArea = At(5 * Page) };
        Assert.True(_queue.TryStart(layout, _dma.Port, QueueState.Beginning(isPacked: true), out _));
        for (var page = 0UL; page < 7; page++)
            Assert.Equal(page is 0 or 3 or 5, _queue.DependsOn(new DmaChange(DmaChangeKind.Unmapped, new IovaRange(At(page * Page), Page))));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void What_the_device_writes_is_marked_where_it_lies_and_nothing_else(bool inOrder)
    {
        const int Entries = 512;
        // The ring fills the first two pages, the event areas follow.
        Map(0, Pages);
        _driver = new PackedDriverRing(_memory, new Iova(Base), 0, Entries, eventIndex: true, indirect: true, inOrder);
        Start();
        Assert.True(DirtyLog.TryCreate(Page, [], out var log, out _));
        Assert.True(_space.TryStartLog(log!, out _));
        _driver.Add([Readable(3 * Page, 16), Writable(4 * Page, 3 * (uint)Page), Writable(9 * Page, 1)]);
        _driver.Publish();
        Assert.True(_queue.TryTake(_chain, out _));
        Assert.True(_chain.TryReserveTrailer());
        Assert.Equal(0UL, Dirty());
        // Of three pages two are written, and the status.
        _chain.WriteTrailer(0);
        _queue.Complete(_chain, (uint)Page + 1);
        Assert.Equal(1UL << 4 | 1UL << 5 | 1UL << 9, Dirty());
        _queue.Publish();
        Assert.Equal(1UL, Dirty());
        _queue.EnableKicks();
        Assert.Equal(1UL << 2, Dirty());
        Assert.Equal(0UL, Dirty());
        _queue.DisableKicks();
        Assert.Equal(1UL << 2, Dirty());
        for (var i = 3; i < 256; i++)
            Use();
        Assert.Equal(1UL, Dirty());
        Use();
        Assert.Equal(1UL << 1, Dirty());
        _space.StopLog();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void To_a_ring_that_is_reached_by_messages_the_first_used_descriptor_goes_last_and_a_wish_goes_too(bool eventIndex)
    {
        var peer = new Messages(_memory);
        MapFar(peer);
        _driver = new PackedDriverRing(_memory, new Iova(Base), 0, Size, eventIndex, indirect: true);
        Start();
        Assert.False(_queue.EnableKicks());
        Assert.Equal([(_driver.Layout.DeviceArea.Value, 4)], peer.Written);
        DescriptorChain[] chains = [new(4), new(4), new(4)];
        for (var i = 0; i < 3; i++)
            _driver.Add([Readable(2 * Page, 16)]);
        Assert.True(_driver.Publish());
        foreach (var chain in chains)
            Assert.True(_queue.TryTake(chain, out _));
        _queue.DisableKicks();
        peer.Written.Clear();
        foreach (var chain in chains)
            _queue.Complete(chain, 0);
        Assert.Empty(peer.Written);
        Assert.True(_queue.Publish());
        Assert.Equal([(Base + 40, 8), (Base + 24, 8), (Base + 8, 8)], peer.Written);
        for (var i = 0; i < 3; i++)
            Assert.True(_driver.TryTakeUsed(out _, out _, out _));
        // The driver is told where the device polls, and where it sleeps.
        _driver.Add([Readable(2 * Page, 16)]);
        Assert.False(_driver.Publish());
        Assert.True(_queue.TryTake(_chain, out _));
        Assert.False(_queue.EnableKicks());
        _driver.Add([Readable(2 * Page, 16)]);
        Assert.True(_driver.Publish());
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_ring_that_is_reached_by_messages_works(bool eventIndex)
    {
        MapFar(new Messages(_memory));
        _driver = new PackedDriverRing(_memory, new Iova(Base), 0, Size, eventIndex, indirect: true);
        Start();
        Assert.True(_queue.IsFar);
        Assert.False(_queue.HasAvailable());
        Assert.False(_queue.TryTake(_chain, out var fault));
        Assert.Equal(Fault.None, fault);
        var head = new byte[16];
        // Chains of three in a ring of five: they lie over its end in any way.
        for (var round = 0; round < (5 * Size) + 1; round++)
        {
            BinaryPrimitives.WriteInt32LittleEndian(head, round);
            _memory.Write(2 * Page, head);
            _memory.Write(3 * Page, Enumerable.Repeat((byte)0xaa, 600).ToArray());
            DriverBuffer[] buffers = [Readable(2 * Page, 16), Writable(3 * Page, 512), Writable((3 * Page) + 512, 1)];
            if (round % 4 == 3)
            {
                RingForm.WriteTable(packed: true, _memory, 6 * Page, buffers);
                _driver.AddIndirect(At(6 * Page), 48);
            }
            else
            {
                _driver.Add(buffers);
            }

            _driver.RequestCalls(true);
            _driver.Publish();
            Assert.True(_queue.HasAvailable());
            Assert.True(_queue.TryTake(_chain, out fault), fault.Message);
            var taken = new byte[16];
            Assert.True(_chain.TryTakeReadable(taken));
            Assert.Equal(head, taken);
            Assert.True(_chain.TryReserveTrailer());
            Assert.Equal(5u, _chain.Write("hello"u8));
            _chain.WriteTrailer(7);
            _queue.Complete(_chain, 6);
            Assert.False(_driver.TryTakeUsed(out _, out _, out _));
            Assert.True(_queue.Publish());
            Assert.True(_driver.TryTakeUsed(out _, out var written, out _));
            Assert.Equal(6u, written);
            var data = new byte[514];
            _memory.Read(3 * Page, data);
            Assert.Equal("hello"u8.ToArray(), data[..5]);
            // What was not written is as it was, and the status stands at the end.
            Assert.True(data.AsSpan(5, 507).IndexOfAnyExcept((byte)0xaa) < 0);
            Assert.Equal((7, 0xaa), (data[512], data[513]));
            Assert.False(_queue.EnableKicks());
            _queue.DisableKicks();
        }

        Assert.Equal(0, _dma.Port.Faults);
    }

    [Fact]
    public void What_a_message_brings_of_a_chain_that_was_not_whole_when_it_began_is_read_again()
    {
        var peer = new Messages(_memory);
        MapFar(peer);
        Start();
        // A chain over the end of the ring: its tail lies before its head, so a message may have the tail of before and the head of after.
        _driver.Add([Readable(2 * Page, 1), Readable(2 * Page, 1), Readable(2 * Page, 1), Readable(2 * Page, 1)]);
        _driver.Publish();
        Assert.True(_queue.TryTake(_chain, out _));
        _queue.Complete(_chain, 0);
        _queue.Publish();
        Assert.True(_driver.TryTakeUsed(out _, out _, out _));
        var reads = 0;
        peer.Within = () =>
        {
            // In the middle of the first message that has the ring: the driver puts the chain there whole.
            if (++reads != 1)
                return;
            _driver.Add([Readable(3 * Page, 2), Readable(3 * Page, 3)]);
            _driver.Publish();
        };
        Assert.True(_queue.TryTake(_chain, out var fault), fault.Message);
        Assert.Equal(5u, _chain.ReadableLength);
    }

    [Fact]
    public void A_far_ring_whose_peer_is_gone_is_a_fault()
    {
        var peer = new Messages(_memory);
        MapFar(peer);
        Start();
        peer.IsGone = true;
        Assert.True(_queue.HasAvailable());
        Assert.False(_queue.TryTake(_chain, out var fault));
        Assert.Equal(Errno.EFAULT, fault.Errno);
        _queue.Stop();
        Assert.False(_queue.TryStart(_driver.Layout, _dma.Port, QueueState.Beginning(isPacked: true), out fault));
        Assert.Equal(Errno.EFAULT, fault.Errno);
    }

    [Fact]
    public void What_is_reached_by_messages_is_the_first_of_a_batch_and_others_follow_it()
    {
        Map(0, 3);
        MapFar(new Messages(_memory), 4, 1);
        Start();
        foreach (var page in (ulong[])[2, 4, 2, 4, 4])
            _driver.Add([Readable(page * Page, 16)]);
        _driver.Publish();
        DescriptorChain[] chains = [new(4), new(4), new(4), new(4), new(4)];
        var counts = new List<int>();
        for (var taken = 0; taken < 5; taken += counts[^1])
        {
            counts.Add(_queue.Take(chains.AsSpan(taken), out var fault));
            Assert.Equal(Fault.None, fault);
            Assert.False(_queue.IsHeldUp);
        }

        Assert.Equal([1, 2, 1, 1], counts);
        Assert.Equal([0u, 16u, 0u, 16u, 16u], chains.Select(chain => chain.Copied));
    }

    private static Iova At(ulong offset) => new(Base + offset);

    private static DriverBuffer Readable(ulong offset, uint length) => new(At(offset), length, false);

    private static DriverBuffer Writable(ulong offset, uint length) => new(At(offset), length, true);

    private void Start() => Assert.True(_queue.TryStart(_driver.Layout, _dma.Port, QueueState.Beginning(isPacked: true), out _));

    private void Map(ulong page, ulong count)
    {
        Assert.True(_space.TryMap(At(page * Page), count * Page, _memory, page * Page, DmaAccess.ReadWrite, out var fault), fault.Message);
    }

    private void MapFar(IRemoteMemory peer, ulong page = 0, ulong count = Pages) =>
        Assert.True(_space.TryMap(new IovaRange(At(page * Page), count * Page), peer, DmaAccess.ReadWrite, out _));

    private void Unmap(ulong page, ulong count) =>
        Assert.True(_space.TryUnmap(new IovaRange(At(page * Page), count * Page), out _, out var fault), fault.Message);

    private ulong Dirty()
    {
        var bitmap = new ulong[1];
        Assert.True(_space.TryReadLog(new IovaRange(new Iova(Base), Pages * Page), Page, bitmap, out var fault), fault.Message);
        return bitmap[0];
    }

    private void Use()
    {
        _driver.Add([Readable(9 * Page, 16)]);
        _driver.Publish();
        Assert.True(_queue.TryTake(_chain, out var fault), fault.Message);
        _queue.Complete(_chain, 0);
        _queue.Publish();
        _driver.TryTakeUsed(out _, out _, out _);
    }

    /// <summary>A peer's memory, at the same addresses, which something may happen to while a message is put together.</summary>
    private sealed class Messages(HostMemory memory) : IRemoteMemory
    {
        internal bool IsGone { get; set; }

        internal Action? Within { get; set; }

        internal List<(ulong Address, int Length)> Written { get; } = [];

        public bool TryRead(Iova address, Span<byte> destination, out Fault fault)
        {
            fault = IsGone ? new Fault(Errno.ECONNRESET, "gone") : Fault.None;
            if (IsGone)
                return false;
            var half = destination.Length / 32 * 16;
            memory.Read(address.Value - Base, destination[..half]);
            if (destination.Length > 16)
                Within?.Invoke();
            memory.Read(address.Value - Base + (ulong)half, destination[half..]);
            return true;
        }

        public bool TryWrite(Iova address, ReadOnlySpan<byte> source, out Fault fault)
        {
            fault = IsGone ? new Fault(Errno.ECONNRESET, "gone") : Fault.None;
            if (IsGone)
                return false;
            memory.Write(address.Value - Base, source);
            Written.Add((address.Value, source.Length));
            return true;
        }
    }
}
