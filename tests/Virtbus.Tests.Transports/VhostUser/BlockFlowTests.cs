using System.Buffers.Binary;
using Virtbus.Block;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Models.VirtioBlk;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Transports.VhostUser;

/// <summary>The flow of a block request, walked hop by hop as docs/architecture.md has it.</summary>
public sealed class BlockFlowTests : IDisposable
{
    private const ulong Base = 0x10000;
    private const ulong Page = 4096;
    private const ulong Header = 1 * Page;
    private const ulong Status = 2 * Page;
    private const ulong Data = 8 * Page;
    private const int Batch = 8;

    private readonly HostMemory _memory;
    private readonly IoAddressSpace _space = new();
    private readonly StandaloneDma _dma = new("flow");
    private readonly EventFd _kick = new();
    private readonly EventFd _call = new();
    private readonly WatchedDisk _disk = new();
    private readonly SplitDriverRing _driver;
    private readonly VirtioBlkDevice _device;

    public BlockFlowTests()
    {
        _memory = HostMemory.Allocate("virtbus-test", 32 * Page, out var file);
        file.Dispose();
        // Page by page, so that each can go by itself.
        for (var page = 0UL; page < 32; page++)
            Assert.True(_space.TryMap(new Iova(Base + (page * Page)), Page, _memory, page * Page, DmaAccess.ReadWrite, out _));
        _driver = new SplitDriverRing(_memory, new Iova(Base), 0, 32, eventIndex: true, indirect: true, inOrder: true);
        _device = new VirtioBlkDevice("flow", _disk, "serial", queueCount: 1, maxQueueSize: 128);
        _dma.Attach(_space);
        _device.SetDma(_dma.Port);
        _device.SetQueueKick(0, _kick);
        _device.SetQueueInterrupt(0, _call.Signal);
        Assert.True(_device.TrySetStatus(VirtioStatus.ACKNOWLEDGE, out _));
        Assert.True(_device.TrySetStatus(VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER, out _));
        Assert.True(_device.TrySetDriverFeatures(_device.DeviceFeatures, out _));
        Assert.True(_device.TrySetStatus(VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER | VirtioStatus.FEATURES_OK, out _));
        var layout = _driver.Layout;
        Assert.True(_device.TrySetQueueSize(0, layout.Size, out _));
        Assert.True(_device.TrySetQueueAddress(0, layout.DescriptorArea, layout.DriverArea, layout.DeviceArea, out _));
        Assert.True(_device.TrySetQueueReady(0, true, out _));
        Assert.True(_device.TrySetStatus(15, out _));
    }

    public void Dispose()
    {
        _device.Dispose();
        _space.Dispose();
        _memory.Dispose();
        _kick.Dispose();
        _call.Dispose();
    }

    [Fact]
    public void A_batch_of_reads_goes_by_poll_thread_queue_model_and_back_end_and_comes_back_by_one_signal()
    {
        if (!ColdProcess.IsHere())
            return;
        Assert.True(DirtyLog.TryCreate(Page, [], out var log, out _));
        Assert.True(_space.TryStartLog(log!, out _));
        // The driver fills its ring, in memory that the device reaches by its port, and kicks by an eventfd.
        _driver.RequestCalls(true);
        for (var i = 0UL; i < Batch; i++)
            Add(i);
        Assert.True(_driver.Publish());
        _kick.Signal();
        Deadline.Until(() => _driver.Writer.UsedIndex == Batch, "the used buffers");

        // A poll thread that all share, the model, the back end. The queue between them may be compiled into the thread's loop.
        Assert.StartsWith("poll ", _disk.Thread, StringComparison.Ordinal);
        Hops.AreInOrder(_disk.Hops, "PollThread", "VirtioBlkQueues", "WatchedDisk");
        // Used ring and guest memory.
        for (var i = 0UL; i < Batch; i++)
        {
            Assert.True(_driver.TryTakeUsed(out _, out var written, out _));
            Assert.Equal(513u, written);
            var bytes = new byte[1];
            _memory.Read(Data + (i * Page), bytes);
            Assert.Equal((byte)(i + 1), bytes[0]);
            _memory.Read(Status + i, bytes);
            Assert.Equal(0, bytes[0]);
        }

        // One signal for all of them, straight from the thread that served them.
        Deadline.Until(() => _device.GetQueueCounters(0).Calls > 0, "the signal");
        Assert.True(_call.TryRead(out var signals));
        Assert.Equal((1UL, 1UL), (signals, _device.GetQueueCounters(0).Calls));
        // What was written is marked: the ring's page, the statuses, the data. The header was only read.
        var bitmap = new ulong[1];
        Assert.True(_space.TryReadLog(new IovaRange(new Iova(Base), 32 * Page), Page, bitmap, out _));
        Assert.Equal(1UL | (1UL << 2) | (0xffUL << 8), bitmap[0]);
        _space.StopLog();
    }

    [Fact]
    public void A_change_of_the_map_disturbs_a_queue_only_by_what_it_uses()
    {
        using var release = new ManualResetEventSlim();
        _disk.Wait = release;
        Add(0);
        Assert.True(_driver.Publish());
        _kick.Signal();
        Assert.True(_disk.Entered.Wait(Deadline.Milliseconds, TestContext.Current.CancellationToken));
        // A request is in the back end. What it does not use goes and comes at once.
        Unmap(20);
        Assert.True(_space.TryMap(new Iova(Base + (20 * Page)), Page, _memory, 20 * Page, DmaAccess.ReadWrite, out _));
        // What it uses is waited for.
        var unmap = new Thread(() => Unmap(Data / Page)) { IsBackground = true };
        unmap.Start();
        Assert.False(unmap.Join(50));
        release.Set();
        Assert.True(unmap.Join(Deadline.Milliseconds));
        Assert.Equal(1, _disk.Channels);
        // The ring itself: the queue stands still until it is there again, and goes on where it was.
        _disk.Wait = null;
        Unmap(0);
        Assert.True(_space.TryMap(new Iova(Base), Page, _memory, 0, DmaAccess.ReadWrite, out _));
        Assert.True(_space.TryMap(new Iova(Base + Data), Page, _memory, Data, DmaAccess.ReadWrite, out _));
        Add(0);
        _driver.Publish();
        _kick.Signal();
        Deadline.Until(() => _driver.Writer.UsedIndex == 2, "the request after the ring came back");
    }

    [Fact]
    public void A_queue_that_failed_holds_no_memory()
    {
        _disk.Bug = new InvalidOperationException("a bug");
        Add(0);
        _driver.Publish();
        _kick.Signal();
        Deadline.Until(() => (_device.Status & VirtioStatus.DEVICE_NEEDS_RESET) != 0, "the failure");
        // The request that it failed at was never handed back, and its memory goes all the same.
        var unmap = new Thread(() => Unmap(Data / Page)) { IsBackground = true };
        unmap.Start();
        Assert.True(unmap.Join(Deadline.Milliseconds));
    }

    [Fact]
    public void A_stop_tells_of_what_was_handed_back_though_its_thread_is_still_at_others()
    {
        // Three clients have their turns in one pass: one that lets the others be woken meanwhile, the queue, and one that keeps the thread.
        Add(0);
        _driver.Publish();
        _kick.Signal();
        Deadline.Until(() => _call.TryRead(out _), "the first signal");
        Assert.True(_driver.TryTakeUsed(out _, out _, out _));
        var shared = PollThreads.Shared;
        var thread = Enumerable.Range(0, shared.Count).Select(i => shared[i]).Single(t => t.Name == _disk.Thread);
        using var first = new Gate();
        using var last = new Gate();
        var before = shared.Attach("before", new PollProbe(_ => first.Pass()), [], new PollOptions { Thread = thread });
        var after = shared.Attach("after", new PollProbe(_ => last.Pass()), [], new PollOptions { Thread = thread });
        Deadline.Until(() => first.Passed > 0 && last.Passed > 0, "the first turns");
        first.Close();
        before.Kick();
        Assert.True(first.Reached.Wait(Deadline.Milliseconds, TestContext.Current.CancellationToken));
        last.Close();
        Add(1);
        _driver.RequestCalls(true);
        _driver.Publish();
        // The last one that is kicked has the first turn.
        after.Kick();
        _device.KickQueue(0);
        first.Open();
        Assert.True(last.Reached.Wait(Deadline.Milliseconds, TestContext.Current.CancellationToken));
        Deadline.Until(() => _driver.Writer.UsedIndex == 2, "the used buffer");
        Assert.True(_device.TrySetQueueReady(0, false, out _));
        Assert.True(_call.TryRead(out var signals));
        Assert.Equal(1UL, signals);
        last.Open();
        before.Detach();
        after.Detach();
    }

    private void Add(ulong i)
    {
        var header = new byte[16];
        BinaryPrimitives.WriteUInt64LittleEndian(header.AsSpan(8), i);
        _memory.Write(Header + (i * 16), header);
        _memory.Write(Status + i, [0xee]);
        _driver.Add(
        [
            new DriverBuffer(new Iova(Base + Header + (i * 16)), 16, false),
            new DriverBuffer(new Iova(Base + Data + (i * Page)), 512, true),
            new DriverBuffer(new Iova(Base + Status + i), 1, true),
        ]);
    }

    private void Unmap(ulong page)
    {
        Assert.True(_space.TryUnmap(new IovaRange(new Iova(Base + (page * Page)), Page), out var unmapped, out var fault), fault.Message);
        Assert.Equal(Page, unmapped);
    }

    /// <summary>Where a client's turn is held up.</summary>
    private sealed class Gate : IDisposable
    {
        private readonly ManualResetEventSlim _isOpen = new(true);
        private int _passed;

        internal ManualResetEventSlim Reached { get; } = new();

        internal int Passed => Volatile.Read(ref _passed);

        internal void Close()
        {
            Reached.Reset();
            _isOpen.Reset();
        }

        internal void Open() => _isOpen.Set();

        internal bool Pass()
        {
            Reached.Set();
            _isOpen.Wait(Deadline.Milliseconds);
            Interlocked.Increment(ref _passed);
            return false;
        }

        public void Dispose()
        {
            _isOpen.Dispose();
            Reached.Dispose();
        }
    }

    /// <summary>A disk whose sectors say their number, and which notes how it was reached.</summary>
    private sealed class WatchedDisk : IBlockBackend, IBlockChannel
    {
        public event EventHandler? InfoChanged
        {
            add { }
            remove { }
        }

        public string Description => "watched";

        public BlockInfo Info { get; } = new() { Capacity = 1 << 20 };

        public bool MayBlock => false;

        public int Depth => 1;

        public FileDescriptor? Completion => null;

        public BlockWays Ways => default;

        internal IReadOnlyList<string> Hops { get; private set; } = [];

        internal string? Thread { get; private set; }

        internal int Channels { get; private set; }

        internal ManualResetEventSlim Entered { get; } = new();

        internal ManualResetEventSlim? Wait { get; set; }

        internal Exception? Bug { get; set; }

        public IBlockChannel OpenChannel(int depth, bool ownsThread = true)
        {
            Channels++;
            return this;
        }

        public bool Submit(BlockRequest request)
        {
            Hops = Tests.Hops.Here();
            Thread = System.Threading.Thread.CurrentThread.Name;
            Entered.Set();
            Wait?.Wait(Deadline.Milliseconds);
            if (Bug is { } bug)
                throw bug;
            foreach (var run in request.Runs)
                run.AsSpan().Fill((byte)((request.Offset / 512) + 1));
            request.Result = Errno.None;
            return true;
        }

        public void Commit()
        {
        }

        public BlockRequest? TryReap() => null;

        void IBlockChannel.Wait(int milliseconds)
        {
        }

        public void Dispose() => Entered.Dispose();
    }
}
