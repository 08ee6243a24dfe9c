using System.Buffers.Binary;
using Virtbus.Block;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Models.VirtioBlk;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Models;

/// <summary>
/// A disk's queue takes many requests at once: what becomes of a batch in whose middle something is wrong, reached by messages, or changed, and where
/// the queue goes on afterwards.
/// </summary>
public sealed class BlockBatchTests : IDisposable
{
    private const ulong Base = 0x10000;
    private const ulong Page = 4096;
    private const ulong Headers = 0x8000;
    private const ulong Statuses = 0xa000;
    private const ulong Data = 0x20000;
    private const ulong Bytes = Data + (Slots * Page);
    private const ulong Far = 1UL << 40;
    private const ulong Slots = 256;
    private const int Batch = 8;

    private readonly HostMemory _memory;
    private readonly IoAddressSpace _space = new();
    private readonly StandaloneDma _dma = new("batch");
    private readonly EventFd _kick = new();
    private readonly EventFd _call = new();
    private readonly List<IDisposable> _owned = [];
    private SplitDriverRing _driver = null!;
    private VirtioBlkDevice _device = null!;
    private Fault _fault;

    public BlockBatchTests()
    {
        _memory = HostMemory.Allocate("virtbus-test", Bytes, out var file);
        file.Dispose();
        // The rest page by page, so that each can go by itself.
        Assert.True(_space.TryMap(new Iova(Base), Headers, _memory, 0, DmaAccess.ReadWrite, out _));
        for (var at = Headers; at < Bytes; at += Page)
            Assert.True(_space.TryMap(new Iova(Base + at), Page, _memory, at, DmaAccess.ReadWrite, out _));
        _dma.Attach(_space);
    }

    public void Dispose()
    {
        // A test that failed leaves nothing that a stop would wait for.
        foreach (var disk in _owned.OfType<Disk>())
            disk.IsHeld = false;
        _device?.Dispose();
        foreach (var owned in _owned)
            owned.Dispose();
        _space.Dispose();
        _memory.Dispose();
        _kick.Dispose();
        _call.Dispose();
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Wrong_request_in_a_batch_ends_the_queue_at_that_request(bool isLate)
    {
        var disk = Start(new Disk { IsLate = isLate });
        Warm(disk);
        Assert.True(DirtyLog.TryCreate(Page, [], out var log, out _));
        Assert.True(_space.TryStartLog(log!, out _));
        Add(0);
        Add(1);
        // It has no status.
        _driver.Add([Buffer(Data + (2 * Page), 16, false)]);
        Add(3);
        Add(4);
        disk.IsHeld = true;
        Go();
        if (isLate)
        {
            // While those before it are waited for, it and those behind it hold no memory.
            Deadline.Until(() => disk.Held == 2, "the requests before it");
            for (var slot = 2UL; slot < 5; slot++)
                Unmap(Data + (slot * Page));
            Assert.Equal(Batch, _driver.Writer.UsedIndex);
            disk.IsHeld = false;
        }

        Deadline.Until(() => IsBroken, "the fault");
        Assert.Equal(Errno.EPROTO, _fault.Errno);
        // Those before it are handed back before the driver hears of it, those behind it are not begun.
        Assert.Equal((ushort)(Batch + 2), _driver.Writer.UsedIndex);
        Assert.Equal([0UL, 1UL], disk.Taken[Batch..]);
        // What was written for the driver is marked, the ring's page with it.
        var bitmap = new ulong[5];
        Assert.True(_space.TryReadLog(new IovaRange(new Iova(Base), Bytes), Page, bitmap, out _));
        Assert.Equal((1UL | (1UL << (int)(Statuses / Page)) | (1UL << (int)(Data / Page)) | (1UL << (int)(Data / Page + 1)), 0UL), (bitmap[0], bitmap[1]));
        // Nor does any other now.
        UnmapSlots(5);
        Unmap(Headers);
        // Whoever goes on with the queue finds the wrong one.
        Assert.True(_device.TrySetQueueReady(0, false, out _));
        Assert.Equal(QueueState.Split(Batch + 2), _device.GetQueueState(0));
        Assert.Equal(((ulong)Batch + 2, 1UL), (_device.GetQueueCounters(0).Requests, _device.GetQueueCounters(0).Errors));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Bug_in_a_batch_leaves_what_was_not_handed_back_in_the_ring(bool isLate)
    {
        var disk = Start(new Disk { IsLate = isLate });
        Warm(disk);
        Assert.True(_call.TryRead(out _));
        disk.IsHeld = true;
        disk.Submitting = request => throw (request.Offset == 3 * 512 ? new InvalidOperationException("a bug") : new NotSupportedException());
        disk.SubmittingFrom = 3;
        for (var slot = 0UL; slot < Batch; slot++)
            Add(slot);
        Go();
        Deadline.Until(() => IsBroken, "the failure");
        Assert.Equal((Errno.EIO, "the device model failed: a bug"), (_fault.Errno, _fault.Message));
        // The back end touches none of their memory any more.
        Assert.Equal(0, disk.Held);
        var done = Batch + (isLate ? 0 : 3);
        // The driver is told of what was done before, and of nothing else.
        Assert.Equal(done, _driver.Writer.UsedIndex);
        Assert.Equal(!isLate, _call.TryRead(out _));
        UnmapSlots(Batch);
        Assert.True(_device.TrySetQueueReady(0, false, out _));
        Assert.Equal(QueueState.Split((ushort)done), _device.GetQueueState(0));
        // After a reset all is as at first.
        for (var slot = 0UL; slot < Batch; slot++)
            Map(Data + (slot * Page));
        Assert.True(_device.TrySetStatus(0, out _));
        disk.IsHeld = false;
        disk.Submitting = null;
        Run(64, eventIndex: true);
        Warm(disk);
        Warm(disk);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void What_is_reached_by_messages_in_a_batch_is_taken_when_those_before_it_are_handed_back(bool ownThread)
    {
        var peer = new Peer(_memory, () => _driver.Writer.UsedIndex);
        Assert.True(_space.TryMap(new IovaRange(new Iova(Far), 1 << 16), peer, DmaAccess.ReadWrite, out _));
        var disk = Start(new Disk(), ownThread: ownThread);
        Warm(disk);
        foreach (var slot in (ulong[])[0, 1, 2, 3, 4, 5, 6, 7])
        {
            if (slot is 2 or 4 or 5)
                Add(slot, Far);
            else
                Add(slot);
        }

        Go();
        TakeBack(Batch);
        Assert.Equal([0UL, 1, 2, 3, 4, 5, 6, 7], disk.Taken[Batch..]);
        Assert.Equal([Batch + 2, Batch + 4, Batch + 5], peer.UsedAtReads);
        Assert.Equal(0, peer.CallsOnShared);
        Assert.Equal(0, _dma.Port.Faults);
        Assert.True(_device.TrySetQueueReady(0, false, out _));
        Assert.Equal(QueueState.Split(2 * Batch), _device.GetQueueState(0));
    }

    [Fact]
    public void Queue_moves_to_a_thread_of_its_own_with_nothing_in_flight()
    {
        var peer = new Peer(_memory, () => _driver.Writer.UsedIndex);
        Assert.True(_space.TryMap(new IovaRange(new Iova(Far), 1 << 16), peer, DmaAccess.ReadWrite, out _));
        var disk = Start(new Disk { IsLate = true });
        Warm(disk);
        disk.IsHeld = true;
        Add(0);
        Add(1);
        Add(2, Far);
        Add(3);
        Go();
        Deadline.Until(() => disk.Held == 2, "the requests before it");
        // It waits without looking again and again.
        using var never = new EventFd();
        var looks = disk.Looks;
        Assert.False(never.Wait(TimeSpan.FromMilliseconds(100)));
        Assert.InRange(disk.Looks - looks, 0, 5);
        Assert.Empty(peer.UsedAtReads);
        disk.IsHeld = false;
        TakeBack(4);
        Assert.Equal([0UL, 1, 2, 3], disk.Taken[Batch..]);
        Assert.Equal(0, peer.CallsOnShared);
        // What the kernel has from a thread ends with that thread.
        Assert.Equal(0, disk.EndedElsewhere);
    }

    [Fact]
    public void Queue_that_was_held_up_by_memory_that_is_here_now_goes_on_as_before()
    {
        var peer = new Peer(_memory, () => _driver.Writer.UsedIndex);
        Assert.True(_space.TryMap(new IovaRange(new Iova(Far), 1 << 16), peer, DmaAccess.ReadWrite, out _));
        var disk = Start(new Disk { IsLate = true });
        disk.IsHeld = true;
        Add(0);
        Go();
        Deadline.Until(() => disk.Held == 1, "a request in flight");
        var looks = disk.Looks;
        Add(1, Far);
        Go();
        _kick.Signal();
        Deadline.Until(() => disk.Looks > looks, "a look at the next one");
        // The queue stands still meanwhile: between the two there is nothing at that address.
        var isInside = false;
        using var changed = new ManualResetEventSlim();
        disk.Looking = () =>
        {
            Volatile.Write(ref isInside, true);
            changed.Wait();
        };
        _kick.Signal();
        Deadline.Until(() => Volatile.Read(ref isInside), "the look that the change comes in");
        Assert.True(_space.TryUnmap(new IovaRange(new Iova(Far), 1 << 16), out _, out _));
        Assert.True(_space.TryMap(new Iova(Far + Headers), Page, _memory, Headers, DmaAccess.ReadWrite, out _));
        disk.Looking = null;
        disk.IsHeld = false;
        changed.Set();
        TakeBack(2);
        // It sleeps, and is woken by kicks.
        using var never = new EventFd();
        for (var slot = 2UL; slot < 5; slot++)
        {
            Assert.False(never.Wait(TimeSpan.FromMilliseconds(20)));
            Add(slot);
            Go();
            TakeBack(1, slot);
        }

        Assert.Empty(peer.UsedAtReads);
        Assert.Equal(0, disk.EndedElsewhere);
    }

    [Fact]
    public void Index_that_jumps_while_a_batch_is_in_work_ends_the_queue_behind_the_batch()
    {
        var disk = Start(new Disk());
        Warm(disk);
        disk.Submitting = _ => _driver.Writer.PublishIndex(20_000);
        for (var slot = 0UL; slot < 5; slot++)
            Add(slot);
        Go();
        Deadline.Until(() => IsBroken, "the fault");
        Assert.Contains("by more than the queue size", _fault.Message, StringComparison.Ordinal);
        Assert.Equal((ushort)(Batch + 5), _driver.Writer.UsedIndex);
        Assert.True(_device.TrySetQueueReady(0, false, out _));
        Assert.Equal(QueueState.Split(Batch + 5), _device.GetQueueState(0));
    }

    [Fact]
    public void Queue_that_is_stopped_between_batches_goes_on_behind_what_was_handed_back()
    {
        var disk = Start(new Disk());
        Warm(disk);
        using var entered = new ManualResetEventSlim();
        using var release = new ManualResetEventSlim();
        disk.Submitting = _ =>
        {
            entered.Set();
            release.Wait(Deadline.Milliseconds);
        };
        for (var slot = 0UL; slot < 20; slot++)
            Add(slot);
        Go();
        Assert.True(entered.Wait(Deadline.Milliseconds, TestContext.Current.CancellationToken));
        var stop = new Thread(() => Assert.True(_device.TrySetQueueReady(0, false, out _))) { IsBackground = true };
        stop.Start();
        Deadline.Until(() => stop.ThreadState.HasFlag(ThreadState.WaitSleepJoin) || !stop.IsAlive, "the stop waits");
        release.Set();
        Assert.True(stop.Join(Deadline.Milliseconds));
        var used = _driver.Writer.UsedIndex;
        Assert.Equal(QueueState.Split(used), _device.GetQueueState(0));
        Assert.InRange(used, Batch + 1, Batch + 19);
        Assert.True(_device.TrySetQueueReady(0, true, out _));
        TakeBack(20);
        Assert.Equal(Enumerable.Range(0, 20).Select(slot => (ulong)slot), disk.Taken[Batch..]);
    }

    [Fact]
    public void Peer_who_maps_its_memory_where_a_table_was_missed_holds_no_shared_thread_up()
    {
        const int Rounds = 300;
        var peer = new Peer(_memory, () => 0);
        var disk = Start(new Disk());
        var isOver = false;
        var mapper = new Thread(() =>
        {
            while (!Volatile.Read(ref isOver))
            {
                _space.TryMap(new IovaRange(new Iova(Far), 1 << 16), peer, DmaAccess.ReadWrite, out _);
                _space.TryUnmap(new IovaRange(new Iova(Far), 1 << 16), out _, out _);
            }
        }) { IsBackground = true };
        mapper.Start();
        for (var round = 0; round < Rounds; round++)
        {
            _driver.AddIndirect(new Iova(Far + Headers), 48);
            Go();
            Deadline.Until(() => IsBroken || _driver.Writer.UsedIndex == 1, "an end of the round");
            Assert.True(_device.TrySetStatus(0, out _));
            Run(64, eventIndex: true);
        }

        Volatile.Write(ref isOver, true);
        Assert.True(mapper.Join(Deadline.Milliseconds));
        Assert.Equal(0, peer.CallsOnShared);
        Assert.Equal(0, disk.EndedElsewhere);
    }

    [Fact]
    public void Places_that_come_while_others_are_with_the_host_keep_the_order()
    {
        var disk = Start(new Disk { IsLate = true });
        disk.IsHeld = true;
        Add(0);
        Add(1);
        Go();
        Deadline.Until(() => disk.Held == 2, "two requests in flight");
        // The first place is free again, and the second one is not.
        disk.EndOldest();
        TakeBack(1, 0);
        for (var slot = 2UL; slot < 7; slot++)
            Add(slot);
        Go();
        Deadline.Until(() => disk.Held == 6, "six requests in flight");
        disk.EndOldest();
        TakeBack(1, 1);
        Assert.False(_driver.TryTakeUsed(out _, out _, out _));
        // From the last to the first.
        disk.IsHeld = false;
        for (var slot = 2UL; slot < 7; slot++)
            TakeBack(1, slot);
        Assert.Equal(0, disk.Held);
    }

    [Fact]
    public void Back_end_that_takes_fewer_at_once_after_a_bug_gets_no_more()
    {
        var disk = Start(new Disk { IsLate = true });
        Warm(disk);
        disk.Depth = 2;
        disk.Looking = () => throw new InvalidOperationException("a bug");
        _device.KickQueue(0);
        Deadline.Until(() => IsBroken, "the failure");
        disk.Looking = null;
        Assert.True(_device.TrySetStatus(0, out _));
        Run(64, eventIndex: true);
        disk.IsHeld = true;
        for (var slot = 0UL; slot < 5; slot++)
            Add(slot);
        Go();
        Deadline.Until(() => disk.Held == 2, "as many as it takes");
        using var never = new EventFd();
        Assert.False(never.Wait(TimeSpan.FromMilliseconds(50)));
        Assert.Equal(2, disk.Held);
        disk.IsHeld = false;
        TakeBack(5);
    }

    [Fact]
    public void Larger_ring_than_the_one_before_takes_buffers_of_as_many_parts()
    {
        const int Parts = 400;
        var disk = Start(new Disk());
        Warm(disk);
        Assert.True(_device.TrySetStatus(0, out _));
        Run(1024, eventIndex: true);
        _memory.Write(Headers, new byte[16]);
        _driver.Add(
        [
            Buffer(Headers, 16, false),
            .. Enumerable.Range(0, Parts).Select(i => Buffer(Data + ((ulong)(i / 2) * Page) + ((ulong)(i % 2) * 1024), 512, true)),
            Buffer(Statuses, 1, true),
        ]);
        Go();
        var written = 0u;
        Deadline.Until(() => _driver.TryTakeUsed(out _, out written, out _) || IsBroken, "a used buffer");
        Assert.Equal((Parts * 512u) + 1, written);
        Warm(disk);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    [InlineData(11)]
    [InlineData(128)]
    public void Whatever_the_host_ends_first_comes_back_in_order_over_stops_and_other_ring_sizes(int depth)
    {
        var random = new Random(4711 + depth);
        using var medium = new MemoryBackend(1 << 20);
        using (var channel = medium.OpenChannel(1))
        {
            for (var sector = 0UL; sector < Slots; sector++)
            {
                var bytes = GC.AllocateArray<IoVector>(1, pinned: true);
                _memory.Write(Data, Enumerable.Repeat((byte)(sector + 1), 512).ToArray());
                bytes[0] = new IoVector(_memory.Address + (nint)Data, 512);
                var request = new BlockRequest { Operation = BlockOperation.Write, Offset = (long)sector * 512, Length = 512 };
                request.SetRuns(bytes);
                Assert.True(channel.Submit(request));
            }
        }

        using var faulty = new FaultyBackend(medium, new FaultPlan { Seed = depth, Delay = 0.6, LongestDelay = 4, Reorder = true });
        Start(new Shallow(faulty, depth));
        var (next, back, started) = (0UL, 0UL, 0UL);
        for (var step = 0; step < 400; step++)
        {
            switch (random.Next(20))
            {
                case 0:
                    // All that were taken are handed back, and no other is.
                    Assert.True(_device.TrySetQueueReady(0, false, out _));
                    Assert.Equal(QueueState.Split(_driver.Writer.UsedIndex), _device.GetQueueState(0));
                    Assert.True(_device.TrySetQueueReady(0, true, out _));
                    break;
                case 1:
                    Back((int)(next - back));
                    Assert.True(_device.TrySetStatus(0, out _));
                    Run(4 << random.Next(6), eventIndex: random.Next(2) == 0);
                    started = next;
                    break;
                default:
                    for (var i = random.Next(1, 24); i > 0 && _driver.FreeDescriptors >= 3 && next - back < Slots; i--)
                    {
                        _memory.Write(Data + (next % Slots * Page), new byte[512]);
                        Add(next++ % Slots);
                    }

                    Go();
                    Back(random.Next(0, (int)(next - back) + 1));
                    break;
            }
        }

        Back((int)(next - back));
        Assert.Equal((ushort)(next - started), _driver.Writer.UsedIndex);
        Assert.False(IsBroken, _fault.Message);

        void Back(int count)
        {
            for (; count > 0; count--)
            {
                var slot = back++ % Slots;
                TakeBack(1, slot);
            }
        }
    }

    private bool IsBroken => (_device.Status & VirtioStatus.DEVICE_NEEDS_RESET) != 0 && Volatile.Read(ref _isTold);

    private bool _isTold;
    private readonly Dictionary<ushort, ulong> _slotOf = [];

    private Disk Start(Disk disk, bool ownThread = false)
    {
        Start((IBlockBackend)disk, ownThread);
        return disk;
    }

    private void Start(IBlockBackend disk, bool ownThread = false)
    {
        _owned.Add(disk);
        _device = new VirtioBlkDevice("batch", disk, "serial", queueCount: 1, maxQueueSize: 1024);
        _device.UseOwnThreads(ownThread);
        _device.SetDma(_dma.Port);
        _device.SetQueueKick(0, _kick);
        _device.SetQueueInterrupt(0, _call.Signal);
        _device.SetQueueFaultCallback((_, fault) =>
        {
            _fault = fault;
            Volatile.Write(ref _isTold, true);
        });
        _device.Faults = new FaultSink().Open("batch");
        Run(64, eventIndex: true);
    }

    private void Run(int size, bool eventIndex)
    {
        _isTold = false;
        _slotOf.Clear();
        _driver = new SplitDriverRing(_memory, new Iova(Base), 0, size, eventIndex, indirect: true, inOrder: true);
        Assert.True(_device.TrySetStatus(VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER, out _));
        var features = _device.DeviceFeatures;
        Assert.True(_device.TrySetDriverFeatures(eventIndex ? features : features & ~VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_EVENT_IDX), out _));
        Assert.True(_device.TrySetStatus(11, out _));
        var layout = _driver.Layout;
        Assert.True(_device.TrySetQueueSize(0, layout.Size, out _));
        Assert.True(_device.TrySetQueueAddress(0, layout.DescriptorArea, layout.DriverArea, layout.DeviceArea, out _));
        Assert.True(_device.TrySetQueueReady(0, true, out var fault), fault.Message);
        Assert.True(_device.TrySetStatus(15, out _));
    }

    // From here on a batch is taken in one piece.
    private void Warm(Disk disk)
    {
        for (var slot = 0UL; slot < Batch; slot++)
            Add(slot);
        Go();
        TakeBack(Batch);
        Deadline.Until(() => _device.GetQueueCounters(0).Calls > 0, "the call");
        Assert.Equal(0, disk.Held);
    }

    private void Add(ulong slot, ulong at = Base)
    {
        var header = new byte[16];
        BinaryPrimitives.WriteUInt64LittleEndian(header.AsSpan(8), slot);
        _memory.Write(Headers + (slot * 16), header);
        _memory.Write(Statuses + slot, [0xee]);
        var head = _driver.Add(
        [
            new DriverBuffer(new Iova(at + Headers + (slot * 16)), 16, false), Buffer(Data + (slot * Page), 512, true), Buffer(Statuses + slot, 1, true),
        ]);
        Assert.InRange(head, 0, 1023);
        _slotOf[(ushort)head] = slot;
    }

    private void Go()
    {
        _driver.RequestCalls(true);
        if (_driver.Publish())
            _kick.Signal();
    }

    private void TakeBack(int count, ulong? expected = null)
    {
        for (; count > 0; count--)
        {
            ushort head = 0;
            var written = 0u;
            Deadline.Until(() => _driver.TryTakeUsed(out head, out written, out var fault) || fault != Fault.None || IsBroken, "a used buffer");
            Assert.Equal(Fault.None, _driver.Fault);
            Assert.False(IsBroken, _fault.Message);
            Assert.Equal(513u, written);
            var slot = _slotOf[head];
            Assert.Equal(expected ?? slot, slot);
            var bytes = new byte[512];
            _memory.Read(Data + (slot * Page), bytes);
            Assert.True(bytes.AsSpan().IndexOfAnyExcept((byte)(slot + 1)) < 0);
            _memory.Read(Statuses + slot, bytes.AsSpan(0, 1));
            Assert.Equal(0, bytes[0]);
        }
    }

    private static DriverBuffer Buffer(ulong offset, uint length, bool writes) => new(new Iova(Base + offset), length, writes);

    private void Map(ulong at) => Assert.True(_space.TryMap(new Iova(Base + at), Page, _memory, at, DmaAccess.ReadWrite, out _));

    private void UnmapSlots(ulong count)
    {
        for (var slot = 0UL; slot < count; slot++)
            Unmap(Data + (slot * Page));
    }

    private void Unmap(ulong at)
    {
        var unmap = new Thread(() => Assert.True(_space.TryUnmap(new IovaRange(new Iova(Base + at), Page), out _, out _))) { IsBackground = true };
        unmap.Start();
        Assert.True(unmap.Join(Deadline.Milliseconds), "an unmap waits");
    }

    /// <summary>A peer's memory, at other addresses, and how it was asked for.</summary>
    private sealed class Peer(HostMemory memory, Func<ushort> used) : IRemoteMemory
    {
        private int _onShared;

        internal List<int> UsedAtReads { get; } = [];

        internal int CallsOnShared => Volatile.Read(ref _onShared);

        public bool TryRead(Iova address, Span<byte> destination, out Fault fault)
        {
            Note();
            lock (UsedAtReads)
                UsedAtReads.Add(used());
            memory.Read(address.Value - Far, destination);
            fault = Fault.None;
            return true;
        }

        public bool TryWrite(Iova address, ReadOnlySpan<byte> source, out Fault fault)
        {
            Note();
            memory.Write(address.Value - Far, source);
            fault = Fault.None;
            return true;
        }

        private void Note()
        {
            if (PollThread.IsSharedCurrent)
                Interlocked.Increment(ref _onShared);
        }
    }

    /// <summary>A back end that takes fewer requests at once.</summary>
    private sealed class Shallow(IBlockBackend inner, int depth) : IBlockBackend
    {
        public event EventHandler? InfoChanged
        {
            add => inner.InfoChanged += value;
            remove => inner.InfoChanged -= value;
        }

        public string Description => inner.Description;

        public BlockInfo Info => inner.Info;

        public bool MayBlock => false;

        public IBlockChannel OpenChannel(int most, bool ownsThread = true) => inner.OpenChannel(Math.Min(most, depth), ownsThread);

        public void Dispose()
        {
        }
    }

    /// <summary>A disk whose sectors say their number, and which ends requests at once, or later and from the last to the first.</summary>
    private sealed class Disk : IBlockBackend
    {
        private readonly List<ulong> _taken = [];
        private volatile bool _isHeld;
        private int _held;
        private int _ends;
        private int _looks;
        private int _elsewhere;

        public event EventHandler? InfoChanged
        {
            add { }
            remove { }
        }

        public string Description => "batch";

        public BlockInfo Info { get; } = new() { Capacity = 1 << 20 };

        public bool MayBlock => false;

        internal bool IsLate { get; init; }

        /// <summary>Nothing that comes late ends meanwhile, and the channel's end lets go of it.</summary>
        internal bool IsHeld
        {
            get => _isHeld;
            set
            {
                _isHeld = value;
                Current?.Signal();
            }
        }

        /// <summary>Ends the one that was given first, although all are held.</summary>
        internal void EndOldest()
        {
            Interlocked.Increment(ref _ends);
            Current?.Signal();
        }

        internal Action<BlockRequest>? Submitting { get; set; }

        internal Action? Looking { get; set; }

        /// <summary>How many requests the next channel takes at once, where they come late.</summary>
        internal int Depth { get; set; } = 16;

        /// <summary>From which sector on <see cref="Submitting"/> is called.</summary>
        internal long SubmittingFrom { get; set; }

        internal int Held => Volatile.Read(ref _held);

        internal int Looks => Volatile.Read(ref _looks);

        /// <summary>Requests that were taken back on another thread than they were given on.</summary>
        internal int EndedElsewhere => Volatile.Read(ref _elsewhere);

        /// <summary>The sectors that were asked for, in order.</summary>
        internal ulong[] Taken
        {
            get
            {
                lock (_taken)
                    return [.. _taken];
            }
        }

        private Channel? Current { get; set; }

        public IBlockChannel OpenChannel(int depth, bool ownsThread = true) => Current = new Channel(this);

        public void Dispose()
        {
        }

        private sealed class Channel(Disk disk) : IBlockChannel
        {
            private readonly EventFd? _ready = disk.IsLate ? new EventFd() : null;
            private readonly List<(BlockRequest Request, int Thread)> _inFlight = [];

            public int Depth { get; } = disk.IsLate ? disk.Depth : 1;

            public FileDescriptor? Completion => _ready?.Descriptor;

            public BlockWays Ways => default;

            internal void Signal() => _ready?.Signal();

            public bool Submit(BlockRequest request)
            {
                if (request.Offset >= disk.SubmittingFrom * 512)
                    disk.Submitting?.Invoke(request);
                lock (disk._taken)
                    disk._taken.Add((ulong)request.Offset / 512);
                if (!disk.IsLate)
                    return Do(request);
                _inFlight.Add((request, Environment.CurrentManagedThreadId));
                Volatile.Write(ref disk._held, _inFlight.Count);
                return false;
            }

            public void Commit() => _ready?.Signal();

            public BlockRequest? TryReap()
            {
                Interlocked.Increment(ref disk._looks);
                disk.Looking?.Invoke();
                var isHeld = disk.IsHeld;
                if (_inFlight.Count == 0 || (isHeld && Volatile.Read(ref disk._ends) == 0))
                    return null;
                if (isHeld)
                    Interlocked.Decrement(ref disk._ends);
                var at = isHeld ? 0 : _inFlight.Count - 1;
                var (request, thread) = _inFlight[at];
                _inFlight.RemoveAt(at);
                Volatile.Write(ref disk._held, _inFlight.Count);
                if (thread != Environment.CurrentManagedThreadId)
                    Interlocked.Increment(ref disk._elsewhere);
                Do(request);
                return request;
            }

            public void Wait(int milliseconds)
            {
            }

            public void Dispose()
            {
                disk.Current = null;
                _inFlight.Clear();
                Volatile.Write(ref disk._held, 0);
                _ready?.Dispose();
            }

            private static bool Do(BlockRequest request)
            {
                foreach (var run in request.Runs)
                    run.AsSpan().Fill((byte)((request.Offset / 512) + 1));
                request.Result = Errno.None;
                return true;
            }
        }
    }
}
