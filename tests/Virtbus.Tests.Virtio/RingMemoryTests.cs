using System.Buffers.Binary;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Virtio;

/// <summary>A ring and its buffers in memory that changes, is logged, or is reached by messages only.</summary>
public sealed class RingMemoryTests : IDisposable
{
    private const int Size = 8;
    private const ulong Page = 4096;
    private const ulong Base = 0x100000;
    private const ulong Pages = 16;

    private readonly IoAddressSpace _space = new();
    private readonly StandaloneDma _dma = new("test");
    private readonly HostMemory _memory;
    private readonly SplitDeviceRing _queue = new();
    private readonly DescriptorChain _chain = new(32);
    private readonly SplitDriverRing _driver;

    public RingMemoryTests()
    {
        _memory = HostMemory.Allocate("virtbus-test", Pages * Page, out var file);
        file.Dispose();
        _driver = new SplitDriverRing(_memory, new Iova(Base), 0, Size, eventIndex: false, indirect: true);
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
    public void Unmap_waits_until_the_buffer_is_handed_back_and_what_else_goes_waits_for_nothing()
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
        Unmap(5, Pages - 5);
        var unmap = new Thread(() => Unmap(3, 1)) { IsBackground = true };
        unmap.Start();
        Deadline.Until(() => !_dma.Port.TryRead(At(3 * Page), new byte[1]), "the page is out of reach");
        Assert.False(unmap.Join(50));
        Assert.Equal(4u, _chain.Write("late"u8));
        _queue.Complete(_chain, 4);
        Assert.True(unmap.Join(Deadline.Milliseconds));
        Assert.True(_queue.Publish());
        var bytes = new byte[4];
        _memory.Read((3 * Page) + 100, bytes);
        Assert.Equal("late"u8.ToArray(), bytes);
        // The chain is taken anew and holds nothing of before.
        _driver.Add([Readable(2 * Page, 16)]);
        _driver.Publish();
        Assert.True(_queue.TryTake(_chain, out _));
        Map(3, 1);
        Unmap(3, 1);
        _queue.Complete(_chain, 0);
    }

    [Fact]
    public void A_buffer_that_is_refused_holds_nothing()
    {
        Map(0, 1);
        Map(2, 1);
        _dma.Port.SetChangeCallback(change => _queue.WaitUntilUnused(change));
        Start();
        // The second part lies nowhere.
        _driver.Add([Readable(2 * Page, 16), Writable(9 * Page, 512)]);
        _driver.Publish();
        Assert.False(_queue.TryTake(_chain, out var fault));
        Assert.Equal(Errno.EFAULT, fault.Errno);
        Assert.Equal((1, At(9 * Page), DmaAccess.Write), ((int)_dma.Port.Faults, _dma.Port.LastFault!.Value.Address, _dma.Port.LastFault.Value.Access));
        Unmap(2, 1);
    }

    [Theory]
    [InlineData(0, true)]
    [InlineData(1, false)]
    public void A_queue_depends_on_the_memory_of_its_ring(ulong page, bool depends)
    {
        Map(0, Pages);
        Start();
        Assert.Equal(depends, _queue.DependsOn(new DmaChange(DmaChangeKind.Unmapped, new IovaRange(At(page * Page), Page))));
        Assert.True(_queue.DependsOn(DmaChange.Everything));
        Assert.False(_queue.DependsOn(new DmaChange(DmaChangeKind.Mapped, new IovaRange(At(0), Page))));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_ring_may_be_mapped_in_pieces_that_lie_side_by_side_or_not(bool isSideBySide)
    {
        const ulong Entries = 1024;
        using var again = Again(out var memory);
        using (memory)
        {
            // A table of 4 pages, an available ring and a used ring that cross a border each.
            for (var page = 0UL; page < 8; page++)
            {
                var part = isSideBySide || page % 2 == 0 ? memory : again;
                Assert.True(_space.TryMap(At(page * Page), Page, part, page * Page, DmaAccess.ReadWrite, out var fault), fault.Message);
            }

            var driver = new SplitDriverRing(memory, new Iova(Base), 0, (int)Entries, eventIndex: true, indirect: false);
            Assert.True(_queue.TryStart(driver.Layout, _dma.Port, QueueState.Split(0), out var why), why.Message);
            Assert.Equal(!isSideBySide, _queue.IsFar);
            for (var i = 0UL; i < Entries + 2; i++)
            {
                driver.Add([new DriverBuffer(At((7 * Page) + 8), 16, true)]);
                driver.Publish();
                Assert.True(_queue.TryTake(_chain, out why), why.Message);
                _queue.Complete(_chain, (uint)i % 16);
                _queue.Publish();
                Assert.True(driver.TryTakeUsed(out _, out var written, out _));
                Assert.Equal((uint)i % 16, written);
            }

            Assert.True(_queue.DependsOn(new DmaChange(DmaChangeKind.Unmapped, new IovaRange(At(3 * Page), Page))));
            Assert.False(_queue.DependsOn(new DmaChange(DmaChangeKind.Unmapped, new IovaRange(At(7 * Page), Page))));
            _queue.Stop();
            // Of which one is missing.
            Unmap(3, 1);
            Assert.False(_queue.TryStart(driver.Layout, _dma.Port, QueueState.Split(0), out why));
            Assert.Equal(Errno.EFAULT, why.Errno);
            Assert.True(_space.TryUnmapAll(out _, out _));
        }
    }

    [Fact]
    public void A_ring_beyond_the_end_of_the_address_space_is_nowhere()
    {
        Map(0, 1);
        Assert.True(_space.TryMap(new Iova(0), Page, _memory, Page, DmaAccess.ReadWrite, out _));
        Assert.True(_space.TryMap(new Iova(ulong.MaxValue - Page + 1), Page, _memory, 0, DmaAccess.ReadWrite, out _));
        var layout = _driver.Layout with { DescriptorArea = new Iova(ulong.MaxValue - 63) };
        Assert.False(_queue.TryStart(layout, _dma.Port, QueueState.Split(0), out var fault));
        Assert.Equal(Errno.EFAULT, fault.Errno);
    }

    [Fact]
    public void What_the_device_writes_is_marked_and_nothing_else()
    {
        Map(0, Pages);
        Start();
        Assert.True(DirtyLog.TryCreate(Page, [], out var log, out _));
        Assert.True(_space.TryStartLog(log!, out _));
        _driver.Add([Readable(2 * Page, 16), Writable(4 * Page, 3 * (uint)Page), Writable(9 * Page, 1)]);
        _driver.Publish();
        Assert.True(_queue.TryTake(_chain, out _));
        Assert.True(_chain.TryReserveTrailer());
        Assert.Equal(0UL, Dirty());
        // Of three pages two are written, and the status.
        _chain.WriteTrailer(0);
        _queue.Complete(_chain, (uint)Page + 1);
        Assert.Equal(1UL << 4 | 1UL << 5 | 1UL << 9, Dirty());
        _queue.Publish();
        // The used ring.
        Assert.Equal(1UL, Dirty());
        _queue.EnableKicks();
        Assert.Equal(1UL, Dirty());
        Assert.Equal(0UL, Dirty());
        _queue.DisableKicks();
        Assert.Equal(1UL, Dirty());
        _space.StopLog();
    }

    [Fact]
    public void What_the_device_wrote_is_marked_before_an_unmap_of_it_goes_on()
    {
        // So much that to mark it takes longer than to see that it was let go of.
        const ulong Length = 256 << 20;
        var start = At(1 << 30);
        using var large = HostMemory.Allocate("virtbus-test", Length, out var file);
        file.Dispose();
        Map(0, Pages);
        Assert.True(_space.TryMap(start, Length, large, 0, DmaAccess.ReadWrite, out _));
        Start();
        Assert.True(DirtyLog.TryCreate(Page, [], out var log, out _));
        Assert.True(_space.TryStartLog(log!, out _));
        for (var round = 0; round < 20; round++)
        {
            _driver.Add([new DriverBuffer(start, (uint)Length, true)]);
            _driver.Publish();
            Assert.True(_queue.TryTake(_chain, out _));
            var last = new ulong[1];
            using var looks = new ManualResetEventSlim();
            var waiter = new Thread(() =>
            {
                looks.Set();
                while (!_chain.Use.IsEmpty)
                    Thread.SpinWait(1);
                _space.TryReadLog(new IovaRange(new Iova(start.Value + Length - Page), Page), Page, last, out _);
            }) { IsBackground = true };
            waiter.Start();
            Assert.True(looks.Wait(Deadline.Milliseconds));
            _queue.Complete(_chain, (uint)Length);
            Assert.True(waiter.Join(Deadline.Milliseconds));
            Assert.Equal(1UL, last[0]);
            _queue.Publish();
            Assert.True(_driver.TryTakeUsed(out _, out _, out _));
        }

        _space.StopLog();
    }

    [Fact]
    public void What_the_device_writes_to_a_ring_of_several_pages_is_marked_where_it_lies()
    {
        const int Entries = 512;
        // The used index and the elements below 382 lie in page 2, those from 383 on and the index that is waited for in page 3.
        Map(0, Pages);
        var driver = new SplitDriverRing(_memory, new Iova(Base), 0, Entries, eventIndex: true, indirect: false);
        Assert.True(_queue.TryStart(driver.Layout, _dma.Port, QueueState.Split(0), out _));
        for (var i = 0; i < 383; i++)
            Use(driver);
        Assert.True(DirtyLog.TryCreate(Page, [], out var log, out _));
        Assert.True(_space.TryStartLog(log!, out _));
        Use(driver);
        Assert.Equal(1UL << 2 | 1UL << 3, Dirty());
        _queue.EnableKicks();
        Assert.Equal(1UL << 3, Dirty());
        _queue.DisableKicks();
        Assert.Equal(0UL, Dirty());
        for (var i = 384; i < Entries; i++)
            Use(driver);
        Assert.Equal(1UL << 2 | 1UL << 3, Dirty());
        Use(driver);
        Assert.Equal(1UL << 2, Dirty());
        _space.StopLog();
    }

    private void Use(SplitDriverRing driver)
    {
        driver.Add([Readable(9 * Page, 16)]);
        driver.Publish();
        Assert.True(_queue.TryTake(_chain, out var fault), fault.Message);
        _queue.Complete(_chain, 0);
        _queue.Publish();
        Assert.True(driver.TryTakeUsed(out _, out _, out _));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void To_a_ring_that_is_reached_by_messages_elements_go_before_their_index_and_a_wish_goes_too(bool eventIndex)
    {
        var peer = new Messages(_memory);
        Assert.True(_space.TryMap(new IovaRange(new Iova(Base), Pages * Page), peer, DmaAccess.ReadWrite, out _));
        var driver = new SplitDriverRing(_memory, new Iova(Base), 0, Size, eventIndex, indirect: true);
        var used = driver.Layout.DeviceArea.Value;
        Assert.True(_queue.TryStart(driver.Layout, _dma.Port, QueueState.Split(0), out _));
        Assert.False(_queue.EnableKicks());
        driver.Add([Readable(2 * Page, 16)]);
        Assert.True(driver.Publish());
        Assert.True(_queue.TryTake(_chain, out _));
        _queue.DisableKicks();
        peer.Written.Clear();
        _queue.Complete(_chain, 0);
        _queue.Publish();
        Assert.Equal([(used + 4, 8), (used + 2, 2)], peer.Written);
        // The driver is told where the device polls, and where it sleeps.
        driver.Add([Readable(2 * Page, 16)]);
        Assert.False(driver.Publish());
        Assert.True(_queue.TryTake(_chain, out _));
        Assert.False(_queue.EnableKicks());
        driver.Add([Readable(2 * Page, 16)]);
        Assert.True(driver.Publish());
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_ring_that_is_reached_by_messages_works(bool eventIndex)
    {
        var peer = new Messages(_memory);
        Assert.True(_space.TryMap(new IovaRange(new Iova(Base), Pages * Page), peer, DmaAccess.ReadWrite, out _));
        var driver = new SplitDriverRing(_memory, new Iova(Base), 0, Size, eventIndex, indirect: true);
        Assert.True(_queue.TryStart(driver.Layout, _dma.Port, QueueState.Split(0), out var fault), fault.Message);
        Assert.True(_queue.IsFar);
        Assert.False(_queue.HasAvailable());
        Assert.False(_queue.TryTake(_chain, out fault));
        Assert.Equal(Fault.None, fault);
        var head = new byte[16];
        // More than once around, so that the copy of the used ring wraps.
        for (var round = 0; round < (3 * Size) + 1; round++)
        {
            BinaryPrimitives.WriteInt32LittleEndian(head, round);
            _memory.Write(2 * Page, head);
            _memory.Write(3 * Page, Enumerable.Repeat((byte)0xaa, 600).ToArray());
            driver.Add([Readable(2 * Page, 16), Writable(3 * Page, 512), Writable((3 * Page) + 512, 1)]);
            driver.RequestCalls(true);
            driver.Publish();
            Assert.True(_queue.HasAvailable());
            Assert.True(_queue.TryTake(_chain, out fault), fault.Message);
            var taken = new byte[16];
            Assert.True(_chain.TryTakeReadable(taken));
            Assert.Equal(head, taken);
            Assert.True(_chain.TryReserveTrailer());
            Assert.Equal(5u, _chain.Write("hello"u8));
            _chain.WriteTrailer(7);
            _queue.Complete(_chain, 6);
            Assert.Equal(round, driver.Writer.UsedIndex);
            Assert.True(_queue.Publish());
            Assert.True(driver.TryTakeUsed(out _, out var written, out _));
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
    public void A_ring_here_may_have_buffers_that_are_reached_by_messages()
    {
        Map(0, 2);
        var peer = new Messages(_memory);
        Assert.True(_space.TryMap(new IovaRange(At(2 * Page), Page), peer, DmaAccess.ReadWrite, out _));
        Start();
        Assert.False(_queue.IsFar);
        _memory.Write(2 * Page, "0123456789abcdef"u8);
        _driver.Add([Readable(2 * Page, 16), Writable((2 * Page) - 2, 4)]);
        _driver.Publish();
        Assert.True(_queue.TryTake(_chain, out var fault), fault.Message);
        var taken = new byte[16];
        Assert.True(_chain.TryTakeReadable(taken));
        Assert.Equal("0123456789abcdef"u8.ToArray(), taken);
        Assert.Equal(4u, _chain.Write("wxyz"u8));
        _queue.Complete(_chain, 4);
        var bytes = new byte[4];
        _memory.Read((2 * Page) - 2, bytes);
        Assert.Equal("wxyz"u8.ToArray(), bytes);
        // What the device writes for a peer that has gone meanwhile is lost, and counted.
        _driver.Add([Writable(2 * Page, 16)]);
        _driver.Publish();
        peer.IsGone = true;
        Assert.True(_queue.TryTake(_chain, out _));
        _queue.Complete(_chain, 16);
        Assert.True(_dma.Port.Faults > 0);
    }

    [Fact]
    public void A_far_ring_whose_peer_is_gone_is_a_fault()
    {
        var peer = new Messages(_memory);
        Assert.True(_space.TryMap(new IovaRange(new Iova(Base), Pages * Page), peer, DmaAccess.ReadWrite, out _));
        Start();
        peer.IsGone = true;
        Assert.True(_queue.HasAvailable());
        Assert.False(_queue.TryTake(_chain, out var fault));
        Assert.Equal(Errno.EFAULT, fault.Errno);
        _queue.Stop();
        Assert.False(_queue.TryStart(_driver.Layout, _dma.Port, QueueState.Split(0), out fault));
        Assert.Equal(Errno.EFAULT, fault.Errno);
    }

    [Fact]
    public void What_the_device_did_not_write_is_not_sent_to_a_peer()
    {
        Map(0, 2);
        // Its memory may be written and not read: what would be sent back in place of it would be this process's own.
        var peer = new Messages(_memory) { RefusesReads = true };
        Assert.True(_space.TryMap(new IovaRange(At(2 * Page), Page), peer, DmaAccess.ReadWrite, out _));
        Start();
        _memory.Write(2 * Page, Enumerable.Repeat((byte)0xaa, (int)Page).ToArray());
        _driver.Add([Writable(2 * Page, 300), Writable((2 * Page) + 300, 213)]);
        _driver.Publish();
        Assert.True(_queue.TryTake(_chain, out var fault), fault.Message);
        Assert.True(_chain.TryReserveTrailer());
        Assert.Equal(302u, _chain.Write(Enumerable.Repeat((byte)0x11, 302).ToArray()));
        _chain.WriteTrailer(7);
        // Of what it put there it says two bytes less: a request that ended with an error says none.
        _queue.Complete(_chain, 300 + 1);
        var data = new byte[600];
        _memory.Read(2 * Page, data);
        Assert.True(data.AsSpan(0, 300).IndexOfAnyExcept((byte)0x11) < 0);
        Assert.True(data.AsSpan(300, 212).IndexOfAnyExcept((byte)0xaa) < 0);
        Assert.Equal((7, 0xaa), (data[512], data[513]));
        Assert.Equal(0, _dma.Port.Faults);
    }

    [Fact]
    public void Buffers_that_are_reached_by_messages_take_no_more_memory_than_a_ring_may_have_in_flight()
    {
        const uint Large = 12 << 20;
        Map(0, 2);
        Assert.True(_space.TryMap(new IovaRange(new Iova(1UL << 32), 1UL << 30), new Endless(), DmaAccess.ReadWrite, out _));
        Start();
        for (var i = 0; i < 4; i++)
            _driver.Add([new DriverBuffer(new Iova(1UL << 32), Large, true)]);
        _driver.Publish();
        DescriptorChain[] chains = [new(4), new(4), new(4)];
        Assert.True(_queue.TryTake(chains[0], out _));
        Assert.True(_queue.TryTake(chains[1], out _));
        // What is in flight has to come back first; until then the ring is as one without buffers.
        Assert.False(_queue.TryTake(chains[2], out var fault));
        Assert.Equal(Fault.None, fault);
        Assert.False(_queue.HasAvailable());
        Assert.False(_queue.EnableKicks());
        _queue.Complete(chains[0], 0);
        Assert.True(_queue.HasAvailable());
        Assert.True(_queue.TryTake(chains[2], out _));
        Assert.False(_queue.HasAvailable());
        _queue.Complete(chains[1], 0);
        _queue.Complete(chains[2], 0);
        Assert.True(_queue.TryTake(chains[0], out _));
        _queue.Complete(chains[0], 0);
        _queue.Publish();
    }

    [Fact]
    public void Buffers_that_are_reached_by_messages_leave_nothing_behind_when_they_are_put_back_or_refused()
    {
        const uint Large = 12 << 20;
        Map(0, 2);
        Assert.True(_space.TryMap(new IovaRange(new Iova(1UL << 32), 1UL << 30), new Endless(), DmaAccess.ReadWrite, out _));
        Start();
        for (var i = 0; i < 2; i++)
            _driver.Add([new DriverBuffer(new Iova(1UL << 32), Large, true)]);
        // The second part lies nowhere.
        _driver.Add([new DriverBuffer(new Iova(1UL << 32), Large, true), Writable(9 * Page, 512)]);
        _driver.Publish();
        DescriptorChain[] chains = [new(4), new(4), new(4)];
        for (var round = 0; round < 3; round++)
        {
            Assert.True(_queue.TryTake(chains[0], out _));
            Assert.True(_queue.TryTake(chains[1], out _));
            Assert.False(_queue.HasAvailable());
            _queue.PutBack(chains.AsSpan(0, 2));
            Assert.Equal((0u, 0u), (chains[0].Copied, chains[1].Copied));
            // There is room again.
            Assert.True(_queue.HasAvailable());
            Assert.Equal(QueueState.Split(0), _queue.State);
        }

        Assert.True(_queue.TryTake(chains[0], out _));
        Assert.Equal(Large, chains[0].Copied);
        _queue.Complete(chains[0], 0);
        Assert.True(_queue.TryTake(chains[1], out _));
        _queue.Complete(chains[1], 0);
        Assert.False(_queue.TryTake(chains[2], out var fault));
        Assert.Equal(Errno.EFAULT, fault.Errno);
        Assert.Equal(0u, chains[2].Copied);
    }

    [Fact]
    public void What_is_reached_by_messages_is_the_first_of_a_batch_and_others_follow_it()
    {
        Map(0, 3);
        Map(3, 1);
        var peer = new Messages(_memory);
        Assert.True(_space.TryMap(new IovaRange(At(4 * Page), Page), peer, DmaAccess.ReadWrite, out _));
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
            Assert.Equal(QueueState.Split((ushort)(taken + counts[^1])), _queue.State);
            // The stay is over: who unmaps what is not in use waits for nobody.
            Unmap(3, 1);
            Map(3, 1);
        }

        Assert.Equal([1, 2, 1, 1], counts);
        Assert.Equal([0u, 16u, 0u, 16u, 16u], chains.Select(chain => chain.Copied));
    }

    // The same memory, at two places of this process.
    private static HostMemory Again(out HostMemory memory)
    {
        memory = HostMemory.Allocate("virtbus-test", Pages * Page, out var file);
        using (file)
        {
            Assert.True(HostMemory.TryMap(file, 0, Pages * Page, DmaAccess.ReadWrite, out var again, out _));
            return again!;
        }
    }

    private static Iova At(ulong offset) => new(Base + offset);

    private static DriverBuffer Readable(ulong offset, uint length) => new(At(offset), length, false);

    private static DriverBuffer Writable(ulong offset, uint length) => new(At(offset), length, true);

    private void Start() => Assert.True(_queue.TryStart(_driver.Layout, _dma.Port, QueueState.Split(0), out _));

    private void Map(ulong page, ulong count)
    {
        Assert.True(_space.TryMap(At(page * Page), count * Page, _memory, page * Page, DmaAccess.ReadWrite, out var fault), fault.Message);
    }

    private void Unmap(ulong page, ulong count)
    {
        Assert.True(_space.TryUnmap(new IovaRange(At(page * Page), count * Page), out var unmapped, out var fault), fault.Message);
        Assert.Equal(count * Page, unmapped);
    }

    private ulong Dirty()
    {
        var bitmap = new ulong[1];
        Assert.True(_space.TryReadLog(new IovaRange(new Iova(Base), Pages * Page), Page, bitmap, out var fault), fault.Message);
        return bitmap[0];
    }

    /// <summary>A peer's memory, at the same addresses.</summary>
    private sealed class Messages(HostMemory memory) : IRemoteMemory
    {
        internal bool IsGone { get; set; }

        internal bool RefusesReads { get; init; }

        internal List<(ulong Address, int Length)> Written { get; } = [];

        public bool TryRead(Iova address, Span<byte> destination, out Fault fault)
        {
            fault = IsGone || RefusesReads ? new Fault(Errno.ECONNRESET, "gone") : Fault.None;
            if (fault == Fault.None)
                memory.Read(address.Value - Base, destination);
            return fault == Fault.None;
        }

        public bool TryWrite(Iova address, ReadOnlySpan<byte> source, out Fault fault)
        {
            fault = IsGone ? new Fault(Errno.ECONNRESET, "gone") : Fault.None;
            if (!IsGone)
            {
                memory.Write(address.Value - Base, source);
                Written.Add((address.Value, source.Length));
            }


            return !IsGone;
        }
    }

    /// <summary>A peer who takes all and has zeros.</summary>
    private sealed class Endless : IRemoteMemory
    {
        public bool TryRead(Iova address, Span<byte> destination, out Fault fault)
        {
            destination.Clear();
            fault = Fault.None;
            return true;
        }

        public bool TryWrite(Iova address, ReadOnlySpan<byte> source, out Fault fault)
        {
            fault = Fault.None;
            return true;
        }
    }
}
