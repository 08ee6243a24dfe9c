using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Virtio;

public sealed class SplitDeviceRingTests : IDisposable
{
    private const int Size = 8;
    private const ulong Base = 0x10000;
    private const ulong Bytes = 0x10000;
    private const ushort Next = SplitRing.VIRTQ_DESC_F_NEXT;
    private const ushort Write = SplitRing.VIRTQ_DESC_F_WRITE;
    private const ushort Indirect = SplitRing.VIRTQ_DESC_F_INDIRECT;

    private readonly IoAddressSpace _space = new();
    private readonly StandaloneDma _dma = new("test");
    private readonly HostMemory _memory;
    private readonly SplitDeviceRing _queue = new();
    private readonly DescriptorChain _chain = new(32);
    private SplitDriverRing _driver;

    public SplitDeviceRingTests()
    {
        _memory = HostMemory.Allocate("virtbus-test", Bytes, out var file);
        file.Dispose();
        Assert.True(_space.TryMap(new Iova(Base), Bytes, _memory, 0, DmaAccess.ReadWrite, out _));
        _dma.Attach(_space);
        _driver = Start(eventIndex: false, indirect: true);
    }

    public void Dispose()
    {
        _queue.Stop();
        _space.Dispose();
        _memory.Dispose();
    }

    private SplitDriverRing Start(bool eventIndex, bool indirect, ushort nextAvailable = 0)
    {
        _queue.Stop();
        _driver = new SplitDriverRing(_memory, new Iova(Base), 0, Size, eventIndex, indirect);
        Assert.True(_queue.TryStart(_driver.Layout, _dma.Port, QueueState.Split(nextAvailable), out _));
        return _driver;
    }

    private static DriverBuffer Readable(ulong offset, uint length) => new(new Iova(Base + offset), length, false);

    private static DriverBuffer Writable(ulong offset, uint length) => new(new Iova(Base + offset), length, true);

    private Fault TakeFault()
    {
        Assert.False(_queue.TryTake(_chain, out var fault));
        Assert.NotEqual(Fault.None, fault);
        return fault;
    }

    [Fact]
    public void Chain_is_taken_and_handed_back()
    {
        _memory.Write(0x1000, "header"u8);
        var head = _driver.Add([Readable(0x1000, 6), Writable(0x2000, 100), Writable(0x3000, 1)]);
        _driver.Publish();
        Assert.True(_queue.TryTake(_chain, out _));
        var header = new byte[6];
        Assert.True(_chain.TryTakeReadable(header));
        Assert.Equal("header"u8, header);
        Assert.True(_chain.TryReserveTrailer());
        Assert.Equal(100u, _chain.WritableLength);
        Assert.Equal(4u, _chain.Write("data"u8));
        _chain.WriteTrailer(7);
        _queue.Complete(_chain, 101);
        Assert.False(_driver.TryTakeUsed(out _, out _, out _));
        _queue.Publish();
        Assert.True(_driver.TryTakeUsed(out var used, out var written, out _));
        Assert.Equal(head, used);
        Assert.Equal(101u, written);
        var status = new byte[1];
        _memory.Read(0x3000, status);
        Assert.Equal(7, status[0]);
        Assert.Equal(Size, _driver.FreeDescriptors);
    }

    [Fact]
    public void Many_are_taken_at_once_in_their_order_and_no_more_than_there_are()
    {
        var heads = new List<int>();
        for (var i = 0u; i < 3; i++)
            heads.Add(_driver.Add([Readable(0x1000 + (i * 0x100), i + 1)]));
        _driver.Publish();
        DescriptorChain[] chains = [new(4), new(4), new(4), new(4)];
        Assert.Equal(2, _queue.Take(chains.AsSpan(0, 2), out var fault));
        Assert.Equal(Fault.None, fault);
        Assert.Equal(1, _queue.Take(chains.AsSpan(2), out fault));
        Assert.Equal(Fault.None, fault);
        Assert.Equal(0, _queue.Take(chains.AsSpan(3), out fault));
        Assert.Equal(Fault.None, fault);
        Assert.Equal(heads, chains[..3].Select(chain => (int)chain.Head));
        Assert.Equal([1u, 2u, 3u], chains[..3].Select(chain => chain.ReadableLength));
    }

    [Fact]
    public void What_is_before_a_wrong_one_is_taken_with_it_told()
    {
        _driver.Add([Readable(0x1000, 1)]);
        _driver.Add([Readable(0x1100, 1)]);
        _driver.Writer.AddHead(Size);
        _driver.Publish();
        DescriptorChain[] chains = [new(4), new(4), new(4), new(4)];
        Assert.Equal(2, _queue.Take(chains, out var fault));
        Assert.Equal(Errno.EPROTO, fault.Errno);
        Assert.Equal(QueueState.Split(2), _queue.State);
    }

    [Fact]
    public void What_is_put_back_is_taken_again_and_its_memory_is_not_in_use()
    {
        for (var i = 0u; i < 3; i++)
            _driver.Add([Readable(0x1000 + (i * 0x1000), i + 1)]);
        _driver.Publish();
        DescriptorChain[] chains = [new(4), new(4), new(4)];
        Assert.Equal(3, _queue.Take(chains, out _));
        _queue.PutBack(chains.AsSpan(1));
        Assert.Equal(QueueState.Split(1), _queue.State);
        Assert.Equal([false, true, true], chains.Select(chain => chain.Use.IsEmpty));
        Assert.Equal(2, _queue.Take(chains.AsSpan(1), out _));
        Assert.Equal([1u, 2u, 3u], chains.Select(chain => chain.ReadableLength));
    }

    [Fact]
    public void Queue_that_broke_goes_on_at_the_first_that_the_driver_does_not_see_handed_back()
    {
        Start(eventIndex: false, indirect: false, nextAvailable: 0xfffe);
        for (var i = 0; i < 0xfffe; i++)
            _driver.Writer.AddHead(0);
        for (var i = 0u; i < 5; i++)
            _driver.Add([Readable(0x1000 + (i * 0x1000), i + 1)]);
        _driver.Publish();
        DescriptorChain[] chains = [new(4), new(4), new(4), new(4), new(4)];
        Assert.Equal(5, _queue.Take(chains, out _));
        _queue.Complete(chains[0], 0);
        _queue.Complete(chains[1], 0);
        _queue.Complete(chains[2], 0);
        _queue.Publish();
        // It is in the used ring, and not announced.
        _queue.Complete(chains[3], 0);
        _queue.LetGo();
        Assert.Equal(QueueState.Split(1), _queue.State);
        Assert.All(chains, chain => Assert.True(chain.Use.IsEmpty));
    }

    [Fact]
    public void What_the_driver_changes_while_the_device_reads_it_leads_nowhere_else()
    {
        const int Rounds = 30_000;
        const ulong Table = 0x8000;
        var first = _memory.Address;
        var isOver = false;
        // Each word flips between what is right and what is not, at any moment.
        var flips = new Thread(() =>
        {
            var random = new Random(4711);
            ulong[] addresses = [Base + 0x1000, Base + Table, Base + Bytes - 0x1000, Base + Bytes - 1, 0, ulong.MaxValue - 15];
            uint[] lengths = [1, 16, 48, 0x1000, 0, 0xffff_ffff];
            ushort[] flags = [0, Next, Write, Indirect, Next | Write];
            while (!Volatile.Read(ref isOver))
            {
                // More often right than not, so that whole chains come of it.
                var (places, sizes, kinds) = random.Next(4) == 0 ? (6, 6, 5) : (3, 4, 4);
                var (address, length, flag) = (addresses[random.Next(places)], lengths[random.Next(sizes)], flags[random.Next(kinds)]);
                if (random.Next(2) == 0)
                    _driver.Writer.WriteDescriptor(random.Next(Size), new Iova(address), length, flag, (ushort)random.Next(Size + 1));
                else
                    SplitRingWriter.EncodeDescriptor(_memory, Table + (16 * (ulong)random.Next(4)), new Iova(address), length, flag, (ushort)random.Next(5));
            }
        }) { IsBackground = true };
        flips.Start();
        DescriptorChain[] chains = [.. Enumerable.Range(0, Size).Select(_ => new DescriptorChain(32))];
        var (taken, faults) = (0, 0);
        var jumps = new Random(17);
        for (var round = 0; round < Rounds; round++)
        {
            for (var i = 0; i < Size; i++)
                _driver.Writer.AddHead((ushort)(jumps.Next(50) == 0 ? jumps.Next(ushort.MaxValue) : jumps.Next(Size)));
            _driver.Writer.PublishIndex((ushort)(_queue.NextAvailable + jumps.Next(Size + 2)));
            var count = _queue.Take(chains, out var fault);
            taken += count;
            foreach (var chain in chains[..count])
            {
                var sum = 0UL;
                foreach (var run in (IoVector[])[.. chain.Readable, .. chain.Writable])
                {
                    Assert.True(run.Address >= first && run.Address - first + (nint)run.Length <= (nint)Bytes && run.Length > 0);
                    sum += run.Length;
                }

                Assert.Equal(sum, (ulong)chain.ReadableLength + chain.WritableLength);
                Assert.InRange(chain.Head, 0, Size - 1);
                _queue.Complete(chain, 0);
            }

            _queue.Publish();
            if (fault == Fault.None)
                continue;
            faults++;
            var state = _queue.State;
            _queue.Stop();
            Assert.True(_queue.TryStart(_driver.Layout, _dma.Port, state, out _));
        }

        Volatile.Write(ref isOver, true);
        Assert.True(flips.Join(Deadline.Milliseconds));
        Assert.True(taken > Rounds / 10 && faults > Rounds / 10, $"{taken} taken, {faults} faults");
    }

    [Fact]
    public void Buffer_does_not_go_on_behind_the_end_of_the_address_space()
    {
        Assert.True(_space.TryMap(new Iova(0), 0x1000, _memory, 0, DmaAccess.ReadWrite, out _));
        Assert.True(_space.TryMap(new Iova(ulong.MaxValue - 0xfff), 0x1000, _memory, 0x1000, DmaAccess.ReadWrite, out _));
        _driver.Add([new DriverBuffer(new Iova(ulong.MaxValue - 0xf), 16, true)]);
        _driver.Add([new DriverBuffer(new Iova(ulong.MaxValue - 0xf), 17, true)]);
        _driver.Publish();
        Assert.True(_queue.TryTake(_chain, out _));
        Assert.Contains("outside guest memory", TakeFault().Message, StringComparison.Ordinal);
        Assert.Equal(1, _dma.Port.Faults);
        Assert.True(_chain.Use.IsEmpty);
    }

    [Fact]
    public void Header_and_trailer_may_be_split_over_descriptors()
    {
        _memory.Write(0x1000, "abcdefgh"u8);
        _driver.Add([Readable(0x1000, 3), Readable(0x1003, 1), Readable(0x1004, 4), Writable(0x2000, 1), Writable(0x2001, 1)]);
        _driver.Publish();
        Assert.True(_queue.TryTake(_chain, out _));
        var header = new byte[5];
        Assert.True(_chain.TryTakeReadable(header));
        Assert.Equal("abcde"u8, header);
        Assert.Equal(3u, _chain.ReadableLength);
        Assert.False(_chain.TryTakeReadable(new byte[4]));
        Assert.True(_chain.TryReserveTrailer());
        Assert.Equal(1, _chain.Writable.Length);
    }

    [Fact]
    public void Loop_in_chain_stops_at_queue_size()
    {
        _driver.Writer.WriteDescriptor(0, new Iova(Base), 1, Next, 1);
        _driver.Writer.WriteDescriptor(1, new Iova(Base), 1, Next, 0);
        _driver.Writer.AddHead(0);
        _driver.Publish();
        Assert.Equal(Errno.ELOOP, TakeFault().Errno);
    }

    [Fact]
    public void Loop_in_indirect_table_stops_at_its_length()
    {
        SplitRingWriter.EncodeDescriptor(_memory, 0x1000, new Iova(Base), 1, Next, 1);
        SplitRingWriter.EncodeDescriptor(_memory, 0x1010, new Iova(Base), 1, Next, 0);
        _driver.AddIndirect(new Iova(Base + 0x1000), 32);
        _driver.Publish();
        Assert.Equal(Errno.ELOOP, TakeFault().Errno);
    }

    [Fact]
    public void Chain_of_exactly_queue_size_is_taken()
    {
        _driver.Add([.. Enumerable.Range(0, Size).Select(i => Readable((ulong)(0x1000 + i), 1))]);
        _driver.Publish();
        Assert.True(_queue.TryTake(_chain, out _));
        Assert.Equal(Size, _chain.Readable.Length);
    }

    [Fact]
    public void Indirect_table_may_be_longer_than_the_queue()
    {
        for (ulong i = 0; i < 20; i++)
            SplitRingWriter.EncodeDescriptor(_memory, 0x1000 + (i * 16), new Iova(Base + 0x2000 + i), 1, i == 19 ? Write : Next, (ushort)(i + 1));
        _driver.AddIndirect(new Iova(Base + 0x1000), 320);
        _driver.Publish();
        Assert.True(_queue.TryTake(_chain, out _));
        Assert.Equal(19, _chain.Readable.Length);
        Assert.Equal(1, _chain.Writable.Length);
    }

    [Fact]
    public void Chain_with_more_runs_than_the_device_takes_is_refused()
    {
        for (ulong i = 0; i < 40; i++)
            SplitRingWriter.EncodeDescriptor(_memory, 0x1000 + (i * 16), new Iova(Base), 1, i == 39 ? (ushort)0 : Next, (ushort)(i + 1));
        _driver.AddIndirect(new Iova(Base + 0x1000), 640);
        _driver.Publish();
        Assert.Equal(Errno.E2BIG, TakeFault().Errno);
    }

    [Theory]
    [InlineData(Indirect | Next, 16, "NEXT")]
    [InlineData(Indirect, 17, "multiple of 16")]
    [InlineData(Indirect, 0, "empty")]
    [InlineData(Indirect, 0x100000, "1024 entries")]
    [InlineData(Indirect, 0xfff0, "outside guest memory")]
    public void Bad_indirect_descriptor_is_refused(int flags, uint length, string why)
    {
        if (length == 0xfff0)
            length = 0x1000;
        _driver.Writer.WriteDescriptor(0, new Iova(Base + (why.StartsWith("outside", StringComparison.Ordinal) ? Bytes - 8 : 0x1000)), length, (ushort)flags, 1);
        _driver.Writer.AddHead(0);
        _driver.Publish();
        Assert.Contains(why, TakeFault().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Indirect_table_in_an_indirect_table_is_refused()
    {
        SplitRingWriter.EncodeDescriptor(_memory, 0x1000, new Iova(Base + 0x1000), 16, Indirect, 0);
        _driver.AddIndirect(new Iova(Base + 0x1000), 16);
        _driver.Publish();
        Assert.Contains("holds an indirect descriptor", TakeFault().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Indirect_descriptor_without_the_feature_is_refused()
    {
        Start(eventIndex: false, indirect: false);
        _driver.AddIndirect(new Iova(Base + 0x1000), 16);
        _driver.Publish();
        Assert.Contains("without VIRTIO_F_INDIRECT_DESC", TakeFault().Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0xffffffffffffff00, 0x200, "outside guest memory")]
    [InlineData(Base + Bytes - 1, 2, "outside guest memory")]
    [InlineData(0, 16, "outside guest memory")]
    [InlineData(Base, 0xffffffff, "outside guest memory")]
    [InlineData(Base, 0, "no length")]
    public void Buffer_outside_memory_is_refused(ulong address, uint length, string why)
    {
        _driver.Writer.WriteDescriptor(0, new Iova(address), length, Write, 0);
        _driver.Writer.AddHead(0);
        _driver.Publish();
        Assert.Contains(why, TakeFault().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Readable_after_writable_is_refused()
    {
        _driver.Writer.WriteDescriptor(0, new Iova(Base), 1, Next | Write, 1);
        _driver.Writer.WriteDescriptor(1, new Iova(Base), 1, 0, 0);
        _driver.Writer.AddHead(0);
        _driver.Publish();
        Assert.Contains("readable descriptor follows", TakeFault().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Head_and_next_beyond_the_table_are_refused()
    {
        _driver.Writer.AddHead(Size);
        _driver.Publish();
        Assert.Contains("beyond the queue size", TakeFault().Message, StringComparison.Ordinal);
        Start(eventIndex: false, indirect: true);
        _driver.Writer.WriteDescriptor(0, new Iova(Base), 1, Next, Size);
        _driver.Writer.AddHead(0);
        _driver.Publish();
        Assert.Contains("lies beyond its table", TakeFault().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Available_index_that_jumps_is_refused()
    {
        _driver.Writer.PublishIndex(Size + 1);
        Assert.Contains("more than the queue size", TakeFault().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Buffer_that_crosses_regions_becomes_two_runs()
    {
        var second = HostMemory.Allocate("virtbus-test", 4096, out var file);
        file.Dispose();
        Assert.True(_space.TryMap(new Iova(Base + Bytes), 4096, second, 0, DmaAccess.ReadWrite, out _));
        _dma.Attach(_space);
        Start(eventIndex: false, indirect: true);
        _driver.Add([Writable(Bytes - 10, 30)]);
        _driver.Publish();
        Assert.True(_queue.TryTake(_chain, out _));
        Assert.Equal(2, _chain.Writable.Length);
        Assert.Equal(20u, _chain.Writable[1].Length);
        Assert.Equal(30u, _chain.WritableLength);
        Assert.Equal(20u, _chain.Write("0123456789abcdefghij"u8));
        var read = new byte[10];
        second.Read(0, read);
        Assert.Equal("abcdefghij"u8, read);
        second.Dispose();
    }

    [Theory]
    [InlineData(0)]
    [InlineData(0xfffe)]
    public void Indexes_wrap_around(int start)
    {
        Start(eventIndex: false, indirect: true, (ushort)start);
        // The driver begins at the same index as the device.
        for (var i = 0; i < start; i++)
            _driver.Writer.AddHead(0);
        for (var i = 0; i < 20; i++)
        {
            _driver.Add([Writable(0x1000, 4)]);
            _driver.Publish();
            Assert.True(_queue.TryTake(_chain, out _));
            _queue.Complete(_chain, 4);
            _queue.Publish();
            Assert.True(_driver.TryTakeUsed(out _, out _, out _));
        }

        Assert.Equal((ushort)(start + 20), _queue.NextAvailable);
    }

    [Fact]
    public void Flags_suppress_notifications_both_ways()
    {
        Assert.True(_driver.Publish());
        Assert.False(_queue.EnableKicks());
        _queue.DisableKicks();
        _driver.Add([Writable(0x1000, 4)]);
        Assert.False(_driver.Publish());
        Assert.True(_queue.EnableKicks());
        _driver.RequestCalls(false);
        Assert.True(_queue.TryTake(_chain, out _));
        _queue.Complete(_chain, 0);
        Assert.False(_queue.Publish());
        _driver.RequestCalls(true);
        _driver.Add([Writable(0x1000, 4)]);
        Assert.True(_driver.Publish());
        Assert.True(_queue.TryTake(_chain, out _));
        _queue.Complete(_chain, 0);
        Assert.True(_queue.Publish());
    }

    [Fact]
    public void Event_indexes_suppress_notifications_both_ways()
    {
        Start(eventIndex: true, indirect: true);
        Assert.False(_queue.EnableKicks());
        _driver.Add([Writable(0x1000, 4)]);
        Assert.True(_driver.Publish());
        _queue.DisableKicks();
        _driver.Add([Writable(0x1000, 4)]);
        // The event index lies behind: no kick for the second.
        Assert.False(_driver.Publish());
        _driver.RequestCalls(true);
        Assert.True(_queue.TryTake(_chain, out _));
        _queue.Complete(_chain, 0);
        Assert.True(_queue.Publish());
        Assert.True(_queue.TryTake(_chain, out _));
        _queue.Complete(_chain, 0);
        // used_event was not moved on: no second call.
        Assert.False(_queue.Publish());
        Assert.False(_queue.Publish());
        Assert.False(_queue.EnableKicks());
    }

    [Fact]
    public void One_call_for_a_batch()
    {
        Start(eventIndex: true, indirect: true);
        for (var i = 0; i < 4; i++)
            _driver.Add([Writable(0x1000, 4)]);
        _driver.Publish();
        for (var i = 0; i < 4; i++)
        {
            Assert.True(_queue.TryTake(_chain, out _));
            _queue.Complete(_chain, 0);
        }

        Assert.Equal(0, _driver.Writer.UsedIndex);
        Assert.True(_queue.Publish());
        Assert.Equal(4, _driver.Writer.UsedIndex);
    }

    [Theory]
    [InlineData(0, 0, 0, 0)]
    [InlineData(3, 0, 0, 0)]
    [InlineData(65536, 0, 0, 0)]
    [InlineData(8, 8, 0, 0)]
    [InlineData(8, 0, 1, 0)]
    [InlineData(8, 0, 0, 2)]
    [InlineData(8, (long)Bytes - 16, 0, 0)]
    [InlineData(8, 0, (long)Bytes, 0)]
    [InlineData(8, 0, 0, -4)]
    public void Ring_that_the_standard_forbids_does_not_start(int size, long descriptors, long driver, long device)
    {
        _queue.Stop();
        var layout = new RingLayout(
            size, new Iova(Base + (ulong)descriptors), new Iova(Base + (ulong)driver), new Iova(Base + (ulong)device), false, false);
        Assert.False(_queue.TryStart(layout, _dma.Port, QueueState.Split(0), out var fault));
        Assert.NotEqual(Fault.None, fault);
        Assert.False(_queue.IsStarted);
    }

    [Fact]
    public void Taking_100_000_mutated_rings_neither_fails_nor_loops()
    {
        var seed = Environment.GetEnvironmentVariable("VIRTBUS_SEED") is { } text ? unchecked((int)ulong.Parse(text)) : 20250;
        TestContext.Current.TestOutputHelper?.WriteLine($"seed {seed}");
        var random = new Random(seed);
        var taken = 0;
        for (var round = 0; round < 100_000; round++)
        {
            _queue.Stop();
            // A good ring first: a chain of four, and an indirect one.
            var driver = new SplitDriverRing(_memory, new Iova(Base), 0, Size, eventIndex: (round & 1) != 0, indirect: (round & 2) != 0);
            driver.Add([Readable(0x1000, 16), Writable(0x2000, 512), Writable(0x3000, 512), Writable(0x4000, 1)]);
            for (ulong i = 0; i < 3; i++)
                SplitRingWriter.EncodeDescriptor(_memory, 0x5000 + (i * 16), new Iova(Base + 0x6000), 64, i == 2 ? Write : Next, (ushort)(i + 1));
            driver.AddIndirect(new Iova(Base + 0x5000), 48);
            driver.Publish();
            for (var i = random.Next(1, 4); i > 0; i--)
            {
                var where = random.Next(3) switch
                {
                    0 => random.Next(Size * SplitRing.DescriptorSize),
                    1 => random.Next((int)SplitDriverRing.BytesFor(Size)),
                    _ => 0x5000 + random.Next(48),
                };
                _memory.Write((ulong)where, [Interesting(random)]);
            }

            Assert.True(_queue.TryStart(driver.Layout, _dma.Port, QueueState.Split(0), out _));
            for (var i = 0; i <= Size && _queue.TryTake(_chain, out _); i++)
            {
                taken++;
                foreach (var run in _chain.Writable)
                    run.AsSpan()[^1] = 0xff;
                _queue.Complete(_chain, _chain.WritableLength);
                _queue.Publish();
            }

            _queue.EnableKicks();
        }

        // Many mutations hit what is not used: the loop did look at buffers.
        Assert.InRange(taken, 50_000, 100_000 * (Size + 1));
    }

    private static byte Interesting(Random random) => random.Next(4) switch
    {
        0 => 0,
        1 => 0xff,
        2 => (byte)(1 << random.Next(8)),
        _ => (byte)random.Next(256),
    };
}
