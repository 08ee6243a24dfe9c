using Virtbus.Buses.Virtio;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Tests.Buses.Virtio;

/// <summary>The end of a queue, whoever is inside of it: nobody touches its memory, and nothing of it is called, when it is freed.</summary>
public sealed class VirtioQueueLifeTests : IDisposable
{
    private static readonly VirtioFeatures Split = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1);
    private readonly IommuGroup _group = new(1);
    private readonly DmaPort _port;

    public VirtioQueueLifeTests()
    {
        _port = new DmaPort("device", _group) { IsBusMaster = true };
        Assert.True(_group.TryClaimForDriver("driver", out _));
    }

    public void Dispose() => _group.ReleaseDriver("driver");

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Thread_that_uses_a_queue_while_it_is_freed_finds_it_broken(bool isPacked)
    {
        var features = isPacked ? Split.With(VirtioFeatures.VIRTIO_F_RING_PACKED) : Split;
        for (var round = 0; round < 300; round++)
        {
            var queue = Create(new VirtioQueueSpec("input", null), 16, features);
            using var started = new ManualResetEventSlim();
            var user = Task.Run(
                () =>
                {
                    for (var turns = 0; !queue.IsBroken; turns++)
                    {
                        queue.Add(new DriverBuffer(new Iova(0x10000), 8, true));
                        queue.Kick();
                        queue.TryTake(out _, out _);
                        queue.RequestCalls((turns & 1) == 0);
                        started.Set();
                    }

                    // As one that is broken.
                    queue.Kick();
                    Assert.Equal((-1, false, false), (queue.Add(new DriverBuffer(new Iova(0x10000), 8, true)), queue.TryTake(out _, out _), queue.RequestCalls(true)));
                },
                TestContext.Current.CancellationToken);
            Assert.True(started.Wait(Deadline.Limit, TestContext.Current.CancellationToken));
            queue.Dispose();
            await user.In();
        }

        Assert.Equal(0, Mapped);
    }

    [Fact]
    public async Task Callback_of_a_break_is_over_when_the_queue_is_freed()
    {
        using var entered = new ManualResetEventSlim();
        using var goOn = new ManualResetEventSlim();
        Task? free = null;
        var wasFree = false;
        var queue = Create(
            new VirtioQueueSpec("input", _ => wasFree = free!.IsCompleted),
            4,
            Split,
            (_, _) =>
            {
                entered.Set();
                goOn.Wait();
            });
        var broken = Task.Run(() => queue.Break(new Fault(Errno.ENODEV, "it is gone")), TestContext.Current.CancellationToken);
        Assert.True(entered.Wait(Deadline.Limit, TestContext.Current.CancellationToken));
        using var begun = new ManualResetEventSlim();
        free = Task.Run(
            () =>
            {
                begun.Set();
                queue.Dispose();
            },
            TestContext.Current.CancellationToken);
        Assert.True(begun.Wait(Deadline.Limit, TestContext.Current.CancellationToken));
        for (var i = 0; i < 10_000 && !free.IsCompleted; i++)
            Thread.Yield();
        goOn.Set();
        await broken.In();
        await free.In();
        Assert.False(wasFree);
        Assert.Equal(0, Mapped);
    }

    [Fact]
    public void Queue_that_is_freed_before_it_breaks_calls_nobody()
    {
        var calls = 0;
        var queue = Create(new VirtioQueueSpec("input", _ => calls++), 4, Split, (_, _) => calls++);
        queue.Dispose();
        queue.Break(new Fault(Errno.ENODEV, "it is gone"));
        queue.Interrupt();
        Assert.Equal(0, calls);
    }

    [Fact]
    public void Queue_that_is_freed_from_its_own_callback_does_not_wait_for_itself()
    {
        var queue = Create(new VirtioQueueSpec("input", static queue => queue.Dispose()), 4, Split);
        queue.Break(new Fault(Errno.EIO, "enough"));
        Assert.Equal(0, Mapped);
    }

    [Theory]
    [InlineData(3, false)]
    [InlineData(0, true)]
    [InlineData(65536, true)]
    public void Size_that_no_ring_has_leaves_no_memory_behind(int size, bool isPacked)
    {
        Assert.ThrowsAny<Exception>(() => Create(new VirtioQueueSpec("input", null), size, isPacked ? Split.With(VirtioFeatures.VIRTIO_F_RING_PACKED) : Split));
        Assert.Equal(0, Mapped);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Device_that_wants_no_notifications_gets_none(bool isPacked)
    {
        var notices = 0;
        using var queue = VirtioQueue.Create(
            _group, 0, new VirtioQueueSpec("input", null), 4, isPacked ? Split.With(VirtioFeatures.VIRTIO_F_RING_PACKED) : Split, 4, _ => notices++, static (_, _) => { });
        var wish = new Iova(queue.Layout.DeviceArea.Value + (isPacked ? 2ul : 0));
        for (var turn = 0; turn < 4; turn++)
        {
            var isWanted = turn % 2 == 1;
            Assert.True(_port.TryWrite(wish, [isWanted ? (byte)0 : (byte)1, 0]));
            Assert.True(queue.Add(new DriverBuffer(new Iova(0x10000), 8, true)) >= 0);
            notices = 0;
            queue.Kick();
            Assert.Equal(isWanted ? 1 : 0, notices);
        }
    }

    private int Mapped
    {
        get
        {
            using var map = _port.Snapshot();
            return map.Ranges.Length;
        }
    }

    private VirtioQueue Create(in VirtioQueueSpec spec, int size, VirtioFeatures features, Action<VirtioQueue, Fault>? broken = null) =>
        VirtioQueue.Create(_group, 0, spec, size, features, 4, static _ => { }, broken ?? (static (_, _) => { }));
}
