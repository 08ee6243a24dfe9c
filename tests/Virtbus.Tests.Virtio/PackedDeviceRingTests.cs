using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Virtio;

/// <summary>The device side of a packed ring against drivers that behave and that do not.</summary>
public sealed class PackedDeviceRingTests : IDisposable
{
    // No power of two, as a packed ring may be.
    private const int Size = 7;
    private const ulong Base = 0x10000;
    private const ulong Bytes = 0x10000;
    private const ushort Next = PackedRing.VIRTQ_DESC_F_NEXT;
    private const ushort Write = PackedRing.VIRTQ_DESC_F_WRITE;
    private const ushort Indirect = PackedRing.VIRTQ_DESC_F_INDIRECT;
    private const ushort Avail = PackedRing.VIRTQ_DESC_F_AVAIL;
    private const ushort Used = PackedRing.VIRTQ_DESC_F_USED;

    private readonly IoAddressSpace _space = new();
    private readonly StandaloneDma _dma = new("test");
    private readonly HostMemory _memory;
    private readonly PackedDeviceRing _queue = new();
    private readonly DescriptorChain _chain = new(32);
    private PackedDriverRing _driver;

    public PackedDeviceRingTests()
    {
        _memory = HostMemory.Allocate("virtbus-test", Bytes, out var file);
        file.Dispose();
        Assert.True(_space.TryMap(new Iova(Base), Bytes, _memory, 0, DmaAccess.ReadWrite, out _));
        _dma.Attach(_space);
        _driver = Start();
    }

    public void Dispose()
    {
        _queue.Stop();
        _space.Dispose();
        _memory.Dispose();
    }

    private PackedDriverRing Start(bool eventIndex = false, bool indirect = true, bool inOrder = false)
    {
        _queue.Stop();
        _driver = new PackedDriverRing(_memory, new Iova(Base), 0, Size, eventIndex, indirect, inOrder);
        Assert.True(_queue.TryStart(_driver.Layout, _dma.Port, QueueState.Beginning(isPacked: true), out _));
        return _driver;
    }

    private static DriverBuffer Readable(ulong offset, uint length) => new(new Iova(Base + offset), length, false);

    private static DriverBuffer Writable(ulong offset, uint length) => new(new Iova(Base + offset), length, true);

    private static QueueState State(int available, bool availableWrap, int used, bool usedWrap)
    {
        Assert.True(QueueState.TryPacked((ushort)available, availableWrap, (ushort)used, usedWrap, out var state, out _));
        return state;
    }

    private Fault TakeFault()
    {
        Assert.False(_queue.TryTake(_chain, out var fault));
        Assert.NotEqual(Fault.None, fault);
        Assert.True(_chain.Use.IsEmpty);
        return fault;
    }

    [Fact]
    public void Chain_is_taken_and_handed_back()
    {
        _memory.Write(0x1000, "header"u8);
        var id = _driver.Add([Readable(0x1000, 6), Writable(0x2000, 100), Writable(0x3000, 1)]);
        Assert.False(_queue.TryTake(_chain, out var fault));
        Assert.Equal(Fault.None, fault);
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
        Assert.Equal((id, 101u), (used, written));
        var status = new byte[1];
        _memory.Read(0x3000, status);
        Assert.Equal(7, status[0]);
        Assert.Equal(Size, _driver.FreeDescriptors);
    }

    [Fact]
    public void Many_are_taken_at_once_in_their_order_and_no_more_than_there_are()
    {
        var ids = new List<int>();
        for (var i = 0u; i < 3; i++)
            ids.Add(_driver.Add([Readable(0x1000 + (i * 0x100), i + 1)]));
        _driver.Publish();
        DescriptorChain[] chains = [new(4), new(4), new(4), new(4)];
        Assert.Equal(2, _queue.Take(chains.AsSpan(0, 2), out var fault));
        Assert.Equal(Fault.None, fault);
        Assert.Equal(1, _queue.Take(chains.AsSpan(2), out fault));
        Assert.Equal(Fault.None, fault);
        Assert.Equal(0, _queue.Take(chains.AsSpan(3), out fault));
        Assert.Equal(Fault.None, fault);
        Assert.Equal(ids, chains[..3].Select(chain => (int)chain.Head));
        Assert.Equal([1u, 2u, 3u], chains[..3].Select(chain => chain.ReadableLength));
    }

    [Fact]
    public void What_is_before_a_wrong_one_is_taken_with_it_told()
    {
        _driver.Add([Readable(0x1000, 1)]);
        _driver.Add([Readable(0x1100, 1), Readable(0x1200, 1)]);
        _driver.Writer.WriteDescriptor(3, new Iova(Base), 0, 0, Avail);
        _driver.Publish();
        DescriptorChain[] chains = [new(4), new(4), new(4), new(4)];
        Assert.Equal(2, _queue.Take(chains, out var fault));
        Assert.Equal(Errno.EPROTO, fault.Errno);
        Assert.Equal(State(3, true, 0, true), _queue.State);
    }

    [Fact]
    public void Chain_that_leads_into_a_buffer_that_is_out_is_refused_by_the_one_descriptor_that_is_too_many()
    {
        _driver.Add([Readable(0x1000, 1)]);
        _driver.Publish();
        Assert.True(_queue.TryTake(_chain, out _));
        // All the others, and the first one again, where it would end.
        for (var place = Size - 1; place >= 1; place--)
            _driver.Writer.WriteDescriptor(place, new Iova(Base), 1, 0, Next | Avail);
        Assert.Equal(Errno.EPROTO, TakeFault().Errno);
    }

    [Fact]
    public void What_is_put_back_is_taken_again_over_the_end_of_the_ring_and_its_memory_is_not_in_use()
    {
        for (var i = 0; i < 5; i++)
        {
            _driver.Add([Readable(0x1000, 1)]);
            _driver.Publish();
            Assert.True(_queue.TryTake(_chain, out _));
            _queue.Complete(_chain, 0);
            _queue.Publish();
            Assert.True(_driver.TryTakeUsed(out _, out _, out _));
        }

        for (var i = 0u; i < 3; i++)
            _driver.Add([Readable(0x1000 + (i * 0x1000), i + 1), Readable(0x8000, 1)]);
        _driver.Publish();
        DescriptorChain[] chains = [new(4), new(4), new(4)];
        Assert.Equal(3, _queue.Take(chains, out _));
        Assert.Equal(State(4, false, 5, true), _queue.State);
        _queue.PutBack(chains);
        Assert.Equal(State(5, true, 5, true), _queue.State);
        Assert.All(chains, chain => Assert.True(chain.Use.IsEmpty));
        Assert.Equal(3, _queue.Take(chains, out _));
        Assert.Equal([2u, 3u, 4u], chains.Select(chain => chain.ReadableLength));
        _queue.PutBack(chains.AsSpan(1));
        Assert.Equal(State(0, false, 5, true), _queue.State);
        Assert.Equal([false, true, true], chains.Select(chain => chain.Use.IsEmpty));
    }

    [Fact]
    public void Queue_that_broke_goes_on_at_the_first_that_the_driver_does_not_see_handed_back()
    {
        for (var i = 0u; i < 5; i++)
            _driver.Add([Readable(0x1000 + (i * 0x1000), i + 1)]);
        _driver.Publish();
        DescriptorChain[] chains = [new(4), new(4), new(4), new(4), new(4)];
        Assert.Equal(5, _queue.Take(chains, out _));
        _queue.Complete(chains[0], 0);
        _queue.Complete(chains[1], 0);
        _queue.Publish();
        _queue.Complete(chains[2], 0);
        _queue.Complete(chains[3], 0);
        _queue.LetGo();
        var state = _queue.State;
        Assert.Equal(State(2, true, 2, true), state);
        Assert.All(chains, chain => Assert.True(chain.Use.IsEmpty));
        // They stand in the ring as the driver put them there.
        _queue.Stop();
        Assert.True(_queue.TryStart(_driver.Layout, _dma.Port, state, out _));
        Assert.Equal(3, _queue.Take(chains, out _));
        Assert.Equal([3u, 4u, 5u], chains[..3].Select(chain => chain.ReadableLength));
    }

    [Fact]
    public void Id_that_the_driver_chose_comes_back_and_stands_in_the_last_descriptor()
    {
        _driver.Writer.WriteDescriptor(1, new Iova(Base), 1, 0xabcd, Write | Avail);
        _driver.Writer.WriteDescriptor(0, new Iova(Base), 1, 0x1111, Next | Avail);
        Assert.True(_queue.TryTake(_chain, out _));
        Assert.Equal(0xabcd, _chain.Head);
        _queue.Complete(_chain, 1);
        _queue.Publish();
        var used = new byte[16];
        _memory.Read(0, used);
        Assert.Equal((1, 0xabcd, Write | Avail | Used),
            (BitConverter.ToInt32(used, 8), BitConverter.ToUInt16(used, 12), BitConverter.ToUInt16(used, 14)));
    }

    [Fact]
    public void Chain_longer_than_the_queue_is_refused_and_one_of_exactly_its_size_is_taken()
    {
        for (var place = Size - 1; place >= 0; place--)
            _driver.Writer.WriteDescriptor(place, new Iova(Base), 1, 0, Next | Avail);
        Assert.Equal(Errno.ELOOP, TakeFault().Errno);
        Start();
        _driver.Add([.. Enumerable.Range(0, Size).Select(i => Readable((ulong)(0x1000 + i), 1))]);
        _driver.Publish();
        Assert.True(_queue.TryTake(_chain, out _));
        Assert.Equal(Size, _chain.Readable.Length);
    }

    [Fact]
    public void Descriptor_that_is_made_available_before_it_was_used_is_refused()
    {
        _driver.Add([Readable(0x1000, 1), Readable(0x1000, 1)]);
        _driver.Publish();
        Assert.True(_queue.TryTake(new DescriptorChain(4), out _));
        // Round the ring, and over what the device has.
        for (var place = 2; place < Size; place++)
            _driver.Writer.WriteDescriptor(place, new Iova(Base), 1, 0, Next | Avail);
        Assert.Contains("more descriptors were made available", TakeFault().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Indirect_table_may_be_longer_than_the_queue_and_only_the_write_flag_counts_in_it()
    {
        for (ulong i = 0; i < 20; i++)
            PackedRingWriter.EncodeDescriptor(_memory, 0x1000 + (i * 16), new Iova(Base + 0x2000 + i), 1, (ushort)((i == 19 ? Write : 0) | Next | Avail | 0x40), 99);
        var id = _driver.AddIndirect(new Iova(Base + 0x1000), 320);
        _driver.Publish();
        Assert.True(_queue.TryTake(_chain, out _));
        Assert.Equal((19, 1, id), (_chain.Readable.Length, _chain.Writable.Length, _chain.Head));
    }

    [Fact]
    public void Chain_with_more_runs_than_the_device_takes_is_refused()
    {
        for (ulong i = 0; i < 40; i++)
            PackedRingWriter.EncodeDescriptor(_memory, 0x1000 + (i * 16), new Iova(Base), 1, 0);
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
        var at = Base + (why.StartsWith("outside", StringComparison.Ordinal) ? Bytes - 8 : 0x1000);
        _driver.Writer.WriteDescriptor(0, new Iova(at), length, 0, (ushort)(flags | Avail));
        Assert.Contains(why, TakeFault().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Indirect_table_in_an_indirect_table_is_refused()
    {
        PackedRingWriter.EncodeDescriptor(_memory, 0x1000, new Iova(Base + 0x1000), 16, Indirect);
        _driver.AddIndirect(new Iova(Base + 0x1000), 16);
        _driver.Publish();
        Assert.Contains("holds an indirect descriptor", TakeFault().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Indirect_descriptor_without_the_feature_is_refused()
    {
        Start(indirect: false);
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
        _driver.Writer.WriteDescriptor(0, new Iova(address), length, 0, Write | Avail);
        Assert.Contains(why, TakeFault().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Chain_of_more_than_four_gibibytes_is_refused()
    {
        using var large = HostMemory.Allocate("virtbus-test", 1UL << 32, out var file);
        file.Dispose();
        Assert.True(_space.TryMap(new Iova(1UL << 32), 1UL << 32, large, 0, DmaAccess.ReadWrite, out _));
        _driver.Add([new DriverBuffer(new Iova(1UL << 32), uint.MaxValue, true), Writable(0x1000, 1)]);
        _driver.Publish();
        Assert.Contains("more than 4 GiB", TakeFault().Message, StringComparison.Ordinal);
        Assert.True(_space.TryUnmap(new IovaRange(new Iova(1UL << 32), 1UL << 32), out _, out _));
    }

    [Fact]
    public void Readable_after_writable_is_refused()
    {
        _driver.Writer.WriteDescriptor(1, new Iova(Base), 1, 0, Avail);
        _driver.Writer.WriteDescriptor(0, new Iova(Base), 1, 0, Next | Write | Avail);
        Assert.Contains("readable descriptor follows", TakeFault().Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(Used)]
    [InlineData(Avail | Used)]
    public void Descriptor_of_another_lap_is_not_taken(int flags)
    {
        _driver.Writer.WriteDescriptor(0, new Iova(Base), 1, 0, (ushort)flags);
        Assert.False(_queue.HasAvailable());
        Assert.False(_queue.TryTake(_chain, out var fault));
        Assert.Equal(Fault.None, fault);
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
    public void Events_suppress_notifications_both_ways_over_the_end_of_the_ring()
    {
        Start(eventIndex: true);
        // Whatever the place, and whichever lap: 3 * 7 places.
        for (var i = 0; i < 3 * Size; i++)
        {
            Assert.False(_queue.EnableKicks());
            _driver.Add([Writable(0x1000, 4)]);
            Assert.True(_driver.Publish());
            // The one that was waited for lies behind.
            _driver.Add([Writable(0x1000, 4)]);
            Assert.False(_driver.Publish());
            Assert.False(_driver.RequestCalls(true));
            Assert.True(_queue.TryTake(_chain, out _));
            _queue.Complete(_chain, 0);
            Assert.True(_queue.Publish());
            Assert.True(_queue.TryTake(_chain, out _));
            _queue.Complete(_chain, 0);
            Assert.False(_queue.Publish());
            Assert.True(_driver.TryTakeUsed(out _, out _, out _));
            Assert.True(_driver.TryTakeUsed(out _, out _, out _));
            _driver.RequestCalls(false);
            _queue.EnableKicks();
            _queue.DisableKicks();
            _driver.Add([Writable(0x1000, 4)]);
            Assert.False(_driver.Publish());
            Assert.True(_queue.TryTake(_chain, out _));
            _queue.Complete(_chain, 0);
            Assert.False(_queue.Publish());
            Assert.True(_driver.TryTakeUsed(out _, out _, out _));
        }
    }

    [Theory]
    [InlineData(0, 0, true)]
    [InlineData(0, 1, false)]
    // Without event indexes the third is none; and a fourth there never is.
    [InlineData(0, 2, true)]
    [InlineData(0x7fff, 3, true)]
    public void What_a_driver_asks_for_that_there_is_not_is_told_too_often_rather_than_never(int place, int flags, bool told)
    {
        _driver.Writer.WriteDriverEvent((ushort)place, (ushort)flags);
        _driver.Add([Writable(0x1000, 4)]);
        _driver.Publish();
        Assert.True(_queue.TryTake(_chain, out _));
        _queue.Complete(_chain, 0);
        Assert.Equal(told, _queue.Publish());
    }

    [Fact]
    public void One_call_for_a_batch_and_all_of_it_is_seen_at_once()
    {
        Start(eventIndex: true);
        for (var i = 0; i < 4; i++)
            _driver.Add([Writable(0x1000, 4)]);
        _driver.Publish();
        for (var i = 0; i < 4; i++)
        {
            Assert.True(_queue.TryTake(_chain, out _));
            _queue.Complete(_chain, 0);
            Assert.False(_driver.TryTakeUsed(out _, out _, out _));
        }

        Assert.True(_queue.Publish());
        for (var i = 0; i < 4; i++)
            Assert.True(_driver.TryTakeUsed(out _, out _, out _));
    }

    [Fact]
    public void One_descriptor_stands_for_buffers_that_are_used_whole_and_in_order()
    {
        Start(inOrder: true);
        _driver.Add([Readable(0x1000, 4), Writable(0x2000, 8)]);
        _driver.Add([Readable(0x1000, 4)]);
        var last = _driver.Add([Writable(0x3000, 8), Writable(0x4000, 8)]);
        _driver.Publish();
        DescriptorChain[] chains = [new(4), new(4), new(4)];
        Assert.Equal(3, _queue.Take(chains, out _));
        _queue.Complete(chains[2], 5);
        _queue.Complete(chains[1], 0);
        Assert.False(_queue.Publish());
        _queue.Complete(chains[0], 8);
        _queue.Publish();
        var ring = new byte[Size * 16];
        _memory.Read(0, ring);
        // In the place of the first, of the last: id, length, flags.
        Assert.Equal((last, 5, Write | Avail | Used), (BitConverter.ToUInt16(ring, 12), BitConverter.ToInt32(ring, 8), BitConverter.ToUInt16(ring, 14)));
        Assert.Equal(Avail, BitConverter.ToUInt16(ring, (2 * 16) + 14) & (Avail | Used));
        uint[] expected = [8, 0, 5];
        foreach (var length in expected)
        {
            Assert.True(_driver.TryTakeUsed(out _, out var written, out _));
            Assert.Equal(length, written);
        }

        Assert.Equal(State(5, true, 5, true), _queue.State);
    }

    [Theory]
    [InlineData(0, 0, 0, 0)]
    [InlineData(32769, 0, 0, 0)]
    [InlineData(7, 8, 0, 0)]
    [InlineData(7, 0, 2, 0)]
    [InlineData(7, 0, 0, 2)]
    [InlineData(7, (long)Bytes - 16, 0, 0)]
    [InlineData(7, 0, (long)Bytes, 0)]
    [InlineData(7, 0, 0, -4)]
    public void Ring_that_the_standard_forbids_does_not_start(int size, long descriptors, long driver, long device)
    {
        _queue.Stop();
        var layout = new RingLayout(
            size, new Iova(Base + (ulong)descriptors), new Iova(Base + (ulong)driver), new Iova(Base + (ulong)device), false, false, Packed: true);
        Assert.False(_queue.TryStart(layout, _dma.Port, QueueState.Beginning(isPacked: true), out var fault));
        Assert.NotEqual(Fault.None, fault);
        Assert.False(_queue.IsStarted);
    }

    [Theory]
    [InlineData(7, true, 0, true)]
    [InlineData(0, true, 7, true)]
    // What is taken can't be behind what is used, nor more than a lap before it.
    [InlineData(2, true, 3, true)]
    [InlineData(4, false, 3, true)]
    public void State_that_no_ring_of_its_size_can_have_does_not_start(int available, bool availableWrap, int used, bool usedWrap)
    {
        _queue.Stop();
        Assert.False(_queue.TryStart(_driver.Layout, _dma.Port, State(available, availableWrap, used, usedWrap), out var fault));
        Assert.Equal(Errno.EINVAL, fault.Errno);
        Assert.False(_queue.TryStart(_driver.Layout, _dma.Port, QueueState.Split(0), out fault));
        Assert.Contains("split", fault.Message, StringComparison.Ordinal);
        Assert.True(_queue.TryStart(_driver.Layout, _dma.Port, State(3, false, 3, true), out _));
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
                var whose = random.Next(2) == 0 ? Avail : Used;
                if (random.Next(2) == 0)
                    _driver.Writer.WriteDescriptor(random.Next(Size), new Iova(address), length, (ushort)random.Next(Size), (ushort)(flag | whose));
                else
                    PackedRingWriter.EncodeDescriptor(_memory, Table + (16 * (ulong)random.Next(4)), new Iova(address), length, flag);
            }
        }) { IsBackground = true };
        flips.Start();
        DescriptorChain[] chains = [.. Enumerable.Range(0, Size).Select(_ => new DescriptorChain(32))];
        var (taken, faults) = (0, 0);
        var draw = new Random(17);
        ushort[] heads = [0, Next, Indirect, Write];
        for (var round = 0; round < Rounds; round++)
        {
            // Some are available in any case, as long as the other thread lets them.
            var (place, wrap) = ((int)_queue.State.NextAvailable, _queue.State.AvailableWrap);
            for (var i = 0; i < 4; i++)
            {
                var whose = PackedRing.Available(wrap);
                _driver.Writer.WriteDescriptor(place, new Iova(Base + Table), 48, (ushort)i, (ushort)(heads[draw.Next(4)] | whose));
                place++;
                if (place < Size)
                    continue;
                (place, wrap) = (0, !wrap);
            }

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
                Assert.InRange(chain.Slots, 1, Size);
                _queue.Complete(chain, 0);
            }

            _queue.Publish();
            if (fault == Fault.None)
                continue;
            faults++;
            var state = _queue.State;
            Assert.Equal((state.NextAvailable, state.AvailableWrap), (state.NextUsed, state.UsedWrap));
            _queue.Stop();
            Assert.True(_queue.TryStart(_driver.Layout, _dma.Port, state, out _));
        }

        Volatile.Write(ref isOver, true);
        Assert.True(flips.Join(Deadline.Milliseconds));
        Assert.True(taken > Rounds / 10 && faults > Rounds / 10, $"{taken} taken, {faults} faults");
    }

    [Fact]
    public void Taking_100_000_mutated_rings_neither_fails_nor_loops()
    {
        var seed = Environment.GetEnvironmentVariable("VIRTBUS_SEED") is { } text ? unchecked((int)ulong.Parse(text)) : 20251;
        TestContext.Current.TestOutputHelper?.WriteLine($"seed {seed}");
        var random = new Random(seed);
        var (taken, faults) = (0, 0);
        DescriptorChain[] chains = [.. Enumerable.Range(0, Size).Select(_ => new DescriptorChain(32))];
        for (var round = 0; round < 100_000; round++)
        {
            _queue.Stop();
            // A good ring first, from the beginning or from its last place on: a chain of four, and an indirect one.
            var driver = new PackedDriverRing(
                _memory, new Iova(Base), 0, Size, eventIndex: (round & 1) != 0, indirect: (round & 2) != 0, inOrder: (round & 4) != 0);
            driver.Add([Readable(0x1000, 16), Writable(0x2000, 512), Writable(0x3000, 512), Writable(0x4000, 1)]);
            RingForm.WriteTable(packed: true, _memory, 0x5000, [Readable(0x6000, 64), Readable(0x6000, 64), Writable(0x6000, 64)]);
            driver.AddIndirect(new Iova(Base + 0x5000), 48);
            driver.Publish();
            for (var i = random.Next(1, 4); i > 0; i--)
            {
                var where = random.Next(3) switch
                {
                    0 => random.Next(5 * PackedRing.DescriptorSize),
                    1 => random.Next((int)PackedDriverRing.BytesFor(Size)),
                    _ => 0x5000 + random.Next(48),
                };
                _memory.Write((ulong)where, [Interesting(random)]);
            }

            Assert.True(_queue.TryStart(driver.Layout, _dma.Port, QueueState.Beginning(isPacked: true), out _));
            for (var turn = 0; turn <= Size; turn++)
            {
                var count = _queue.Take(chains.AsSpan(0, random.Next(1, Size)), out var fault);
                taken += count;
                if (fault != Fault.None)
                    faults++;
                // In any order.
                for (var i = count - 1; i >= 0; i--)
                {
                    foreach (var run in chains[i].Writable)
                        run.AsSpan()[^1] = 0xff;
                    _queue.Complete(chains[i], chains[i].WritableLength);
                }

                if (random.Next(2) == 0)
                    _queue.Publish();
                if (count == 0)
                    break;
            }

            if (random.Next(2) == 0)
                _queue.LetGo();
            else
                _queue.EnableKicks();
        }

        // Many mutations hit what is not used: the loop did look at buffers.
        Assert.InRange(taken, 50_000, 100_000 * (Size + 1));
        Assert.True(faults > 10_000, $"{faults} faults");
    }

    [Fact]
    public void Requests_allocate_nothing()
    {
        Start(eventIndex: true, inOrder: true);
        DriverBuffer[] buffers = [Readable(0x1000, 4), Writable(0x1004, 4)];
        long before = 0;
        for (var i = 0; i < 30_000; i++)
        {
            if (i == 10_000)
                before = GC.GetAllocatedBytesForCurrentThread();
            _driver.Add(buffers);
            _driver.Publish();
            if (!_queue.TryTake(_chain, out _))
                Assert.Fail("no buffer");
            _queue.Complete(_chain, 4);
            _queue.Publish();
            if (!_driver.TryTakeUsed(out _, out _, out _))
                Assert.Fail("no used buffer");
        }

        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
    }

    private static byte Interesting(Random random) => random.Next(4) switch
    {
        0 => 0,
        1 => 0xff,
        2 => (byte)(1 << random.Next(8)),
        _ => (byte)random.Next(256),
    };
}
