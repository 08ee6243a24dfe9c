using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using static Virtbus.Tests.Memory.Dma.DmaFixture;

namespace Virtbus.Tests.Memory.Dma;

/// <summary>Memory goes while devices are at work. An access to memory that is unmapped would end the process.</summary>
public sealed class UnmapUnderAccessTests : IDisposable
{
    private readonly DmaFixture _dma = new();

    public void Dispose() => _dma.Dispose();

    [Fact]
    public void Unmap_waits_for_an_access_that_is_under_way_and_for_none_in_another_space()
    {
        Assert.Equal(Errno.None, _dma.Map(0, Page));
        using var inside = new ManualResetEventSlim();
        using var leave = new ManualResetEventSlim();
        using var other = new IoAddressSpace();
        var device = new Thread(() =>
        {
            AccessSlot.Mine.Enter(_dma.Space.Number);
            inside.Set();
            leave.Wait(Deadline.Milliseconds);
            AccessSlot.Mine.Leave();
        });
        device.IsBackground = true;
        device.Start();
        inside.Wait(Deadline.Milliseconds);
        Assert.True(other.TryMap(new Iova(0), Page, _dma.Memory, 0, DmaAccess.Read, out _));
        Assert.True(other.TryUnmap(Range(0, Page), out _, out _));
        var unmap = new Thread(() => _dma.Unmap(0, Page, out _));
        unmap.IsBackground = true;
        unmap.Start();
        // Out of reach at once, but the call has not returned.
        Deadline.Until(() => !_dma.CanRead(0), "the page is out of reach");
        Assert.False(unmap.Join(100));
        leave.Set();
        Assert.True(unmap.Join(Deadline.Milliseconds));
        Assert.True(device.Join(Deadline.Milliseconds));
    }

    [Theory]
    [InlineData("attach")]
    [InlineData("release")]
    [InlineData("master")]
    [InlineData("log")]
    [InlineData("leave")]
    public void Taking_the_memory_away_waits_for_an_access_that_is_under_way(string how)
    {
        Assert.True(DirtyLog.TryCreate(Page, [], out var log, out _));
        using var inside = new ManualResetEventSlim();
        using var leave = new ManualResetEventSlim();
        var device = new Thread(() =>
        {
            AccessSlot.Mine.Enter(_dma.Space.Number);
            inside.Set();
            leave.Wait(Deadline.Milliseconds);
            AccessSlot.Mine.Leave();
        });
        device.IsBackground = true;
        device.Start();
        inside.Wait(Deadline.Milliseconds);
        var take = new Thread(() =>
        {
            switch (how)
            {
                case "attach":
                    _dma.Group.TryAttach(_dma, _dma.Port, null, out _);
                    break;
                case "release":
                    _dma.Group.ReleaseUser(_dma);
                    break;
                case "master":
                    _dma.Port.IsBusMaster = false;
                    break;
                case "log":
                    _dma.Port.TryStartLog(log!, out _);
                    break;
                default:
                    _dma.Port.LeaveGroup();
                    break;
            }
        });
        take.IsBackground = true;
        take.Start();
        Assert.False(take.Join(100));
        leave.Set();
        Assert.True(take.Join(Deadline.Milliseconds));
        Assert.True(device.Join(Deadline.Milliseconds));
    }

    [Fact]
    public void Device_never_touches_memory_after_an_unmap_of_it()
    {
        const int Pages = 8;
        const int Rounds = 1_600;
        using var stop = new CancellationTokenSource();
        long accesses = 0;
        var bad = 0;
        var devices = Enumerable.Range(0, 2).Select(number => new Thread(() => Work(number)) { IsBackground = true }).ToArray();
        foreach (var device in devices)
        {
            device.IsBackground = true;
            device.Start();
        }

        var random = new Random(11);
        var sentinel = new byte[Page];
        var seen = new byte[Page];
        Array.Fill(sentinel, (byte)0xee);
        for (var round = 0; round < Rounds; round++)
        {
            var page = (ulong)random.Next(Pages) * Page;
            var memory = HostMemory.Allocate("virtbus-test", Page, out var file);
            file.Dispose();
            Assert.True(_dma.Space.TryMap(new Iova(page), Page, memory, 0, DmaAccess.ReadWrite, out _));
            if (round % 16 == 0)
            {
                // The page is in use; then nobody writes to what is left of it.
                Deadline.Until(() => FirstByte(memory) != 0, "a device writes to the page");
                Assert.Equal(Errno.None, _dma.Unmap(page, Page, out _));
                memory.Write(0, sentinel);
                var until = Interlocked.Read(ref accesses) + 50;
                Deadline.Until(() => Interlocked.Read(ref accesses) > until, "devices go on");
                memory.Read(0, seen);
                Assert.Equal(sentinel, seen);
            }
            else
            {
                Assert.Equal(Errno.None, _dma.Unmap(round % 3 == 0 ? 0 : page, round % 3 == 0 ? Pages * Page : Page, out var unmapped));
                Assert.Equal(Page, unmapped);
            }

            memory.Dispose();
        }

        stop.Cancel();
        Assert.All(devices, device => Assert.True(device.Join(Deadline.Milliseconds)));
        Assert.Equal(0, bad);
        Assert.True(_dma.Port.Faults > 0);

        static byte FirstByte(HostMemory memory)
        {
            Span<byte> first = stackalloc byte[1];
            memory.Read(0, first);
            return first[0];
        }

        void Work(int number)
        {
            var choice = new Random(number);
            var pattern = new byte[2 * Page];
            Array.Fill(pattern, (byte)(number + 1));
            var read = new byte[2 * Page];
            while (!stop.IsCancellationRequested)
            {
                var length = choice.Next(1, (int)(2 * Page));
                var address = new Iova((ulong)choice.Next((int)((Pages + 1) * Page)));
                if (choice.Next(2) == 0)
                    _dma.Port.TryWrite(address, pattern.AsSpan(0, length));
                else if (_dma.Port.TryRead(address, read.AsSpan(0, length)) && read.AsSpan(0, length).ContainsAnyExcept((byte)0, (byte)1, (byte)2))
                    Interlocked.Increment(ref bad);
                Interlocked.Increment(ref accesses);
            }
        }
    }

    [Fact]
    public void Snapshots_and_look_ups_see_a_map_that_stays_while_others_come_and_go()
    {
        using var stop = new CancellationTokenSource();
        var lost = 0;
        Assert.Equal(Errno.None, _dma.Map(0x100000, Page));
        Assert.Equal(Errno.None, _dma.Map(0x10000000, MemorySize));
        var device = new Thread(() =>
        {
            while (!stop.IsCancellationRequested)
            {
                if (!_dma.CanRead(0x100000, 8) || !_dma.CanRead(0x10000000 + MemorySize - 8, 8))
                    lost++;
            }
        });
        device.IsBackground = true;
        device.Start();
        var random = new Random(3);
        var mapped = new HashSet<ulong>();
        for (var i = 0; i < 30_000; i++)
        {
            var page = 0x200000 + ((ulong)random.Next(3000) * Page);
            if (mapped.Remove(page))
                Assert.Equal(Errno.None, _dma.Unmap(page, Page, out _));
            else if (mapped.Add(page))
                Assert.Equal(Errno.None, _dma.Map(page, Page));
        }

        stop.Cancel();
        Assert.True(device.Join(Deadline.Milliseconds));
        Assert.Equal(0, lost);
        Assert.Equal(0, _dma.Port.Faults);
    }

    [Fact]
    public void Fault_callback_may_unmap_and_map()
    {
        Assert.Equal(Errno.None, _dma.Map(0, Page));
        var handled = 0;
        using var watch = _dma.Group.Observe(_ =>
        {
            handled++;
            Assert.Equal(Errno.None, _dma.Unmap(0, Page, out var unmapped));
            Assert.Equal(Page, unmapped);
            Assert.Equal(Errno.None, _dma.Map(Page, Page));
        }, null);
        Assert.False(_dma.CanRead(0, (int)(2 * Page)));
        Assert.Equal(1, handled);
        Assert.True(_dma.CanRead(Page));
    }

    [Fact]
    public void Slots_of_threads_that_ended_are_used_again()
    {
        var slots = new HashSet<AccessSlot>();
        Deadline.Until(
            () =>
            {
                AccessSlot? slot = null;
                var thread = new Thread(() => slot = AccessSlot.Mine);
                thread.IsBackground = true;
                thread.Start();
                thread.Ends("a thread that does nothing more");
                GC.Collect();
                GC.WaitForPendingFinalizers();
                return !slots.Add(slot!);
            },
            "a thread gets the slot of one that ended");
    }
}
