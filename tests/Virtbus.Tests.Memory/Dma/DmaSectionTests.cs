using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using static Virtbus.Tests.Memory.Dma.DmaFixture;

namespace Virtbus.Tests.Memory.Dma;

/// <summary>Host memory that a device looks up and uses by itself: look-ups, what changes tell, and unmaps that wait for the use.</summary>
public sealed class DmaSectionTests : IDisposable
{
    private readonly DmaFixture _dma = new();

    public void Dispose() => _dma.Dispose();

    [Fact]
    public void Look_up_finds_the_bytes_that_the_port_reads_and_ends_at_the_border_of_a_range()
    {
        Assert.Equal(Errno.None, _dma.Map(0x1000, Page, 0));
        Assert.Equal(Errno.None, _dma.Map(0x2000, Page, 3 * Page, DmaAccess.Read));
        Assert.Equal((Errno.None, 0x10), Look(0x1ff0, 0x20, DmaAccess.ReadWrite));
        Assert.Equal((Errno.None, 0x20), Look(0x2000, 0x20, DmaAccess.Read));
        Assert.Equal(Errno.EACCES, Look(0x2000, 0x20, DmaAccess.ReadWrite).Error);
        Assert.Equal((Errno.None, 1), Look(0x2fff, 1 << 30, DmaAccess.Read));
        Assert.Equal(Errno.EFAULT, Look(0x3000, 1, DmaAccess.Read).Error);
        Assert.Equal(Errno.EFAULT, Look(ulong.MaxValue, 1, DmaAccess.Read).Error);

        Assert.True(_dma.Port.TryWrite(new Iova(0x1ff0), new byte[] { 1, 2, 3, 4 }));
        var hint = default(DmaHint);
        Assert.True(_dma.Port.TryEnter(out var section));
        Assert.Equal(Errno.None, section.Translate(new Iova(0x1ff0), 4, DmaAccess.Read, ref hint, out var run));
        var bytes = run.AsSpan().ToArray();
        section.Leave();
        Assert.Equal([1, 2, 3, 4], bytes);
    }

    [Theory]
    [InlineData(0x1000, 0x8000)]
    [InlineData(0x8000, 0x1000)]
    public void What_is_remembered_of_two_ranges_is_forgotten_when_one_of_them_leads_elsewhere(ulong moved, ulong other)
    {
        for (var place = 0u; place < 5; place++)
        {
            Assert.Equal(Errno.None, _dma.Map(0x1000, Page, place * Page));
            Assert.True(_dma.Port.TryWrite(new Iova(0x1000), new[] { (byte)(place + 1) }));
            Assert.Equal(Errno.None, _dma.Unmap(0x1000, Page, out _));
        }

        Assert.Equal(Errno.None, _dma.Map(0x1000, Page, 0));
        Assert.Equal(Errno.None, _dma.Map(0x8000, Page, Page));
        Assert.Equal(Errno.None, _dma.Map(0xc000, Page, 2 * Page));
        var hint = default(DmaHint);
        ulong[] order = [0x1000, 0x8000, 0x1000, 0xc000, 0x1000, 0x8000, 0x8000, 0xc000, 0x1000];
        var seen = new List<int>();
        foreach (var at in order)
            seen.Add(First(at, ref hint));
        Assert.Equal([1, 2, 1, 3, 1, 2, 2, 3, 1], seen);
        _ = (First(0x1000, ref hint), First(0x8000, ref hint));
        Assert.Equal(Errno.None, _dma.Unmap(moved, Page, out _));
        Assert.Equal(0, First(moved, ref hint));
        Assert.Equal(moved == 0x1000 ? 2 : 1, First(other, ref hint));
        Assert.Equal(Errno.None, _dma.Map(moved, Page, 4 * Page));
        Assert.Equal(5, First(moved, ref hint));
    }

    [Theory]
    [InlineData(0x1000)]
    [InlineData(0x8000)]
    public void What_is_remembered_of_two_ranges_has_the_rights_of_now(ulong moved)
    {
        Assert.Equal(Errno.None, _dma.Map(0x1000, Page, 0));
        Assert.Equal(Errno.None, _dma.Map(0x8000, Page, Page));
        var hint = default(DmaHint);
        Assert.Equal((1, 1), (Found(0x1000, DmaAccess.Write, ref hint), Found(0x8000, DmaAccess.Write, ref hint)));
        Assert.Equal(Errno.None, _dma.Unmap(moved, Page, out _));
        Assert.Equal(Errno.None, _dma.Map(moved, Page, 2 * Page, DmaAccess.Read));
        Assert.Equal((0, 1), (Found(moved, DmaAccess.Write, ref hint), Found(moved, DmaAccess.Read, ref hint)));
        Assert.Equal(1, Found(0x9000 - moved, DmaAccess.Write, ref hint));

        int Found(ulong address, DmaAccess access, ref DmaHint hint)
        {
            Assert.True(_dma.Port.TryEnter(out var section));
            var error = section.Translate(new Iova(address), 1, access, ref hint, out _);
            section.Leave();
            return error == Errno.None ? 1 : 0;
        }
    }

    // The byte behind an address, 0 when there is none.
    private byte First(ulong address, ref DmaHint hint)
    {
        Assert.True(_dma.Port.TryEnter(out var section));
        var value = section.Translate(new Iova(address), 1, DmaAccess.Read, ref hint, out var run) == Errno.None ? run.AsSpan()[0] : (byte)0;
        section.Leave();
        return value;
    }

    [Fact]
    public void Memory_of_a_peer_has_no_address_but_a_length()
    {
        var peer = new PeerMemory(0x4000, (int)Page);
        Assert.True(_dma.Space.TryMap(new IovaRange(new Iova(0x4000), Page), peer, DmaAccess.ReadWrite, out _));
        Assert.Equal((Errno.EOPNOTSUPP, (int)Page), Look(0x4000, 1 << 30, DmaAccess.Write));
    }

    [Fact]
    public void Nobody_enters_what_reaches_nothing()
    {
        Assert.True(_dma.Port.TryEnter(out var section));
        section.Leave();
        _dma.Port.IsBusMaster = false;
        Assert.False(_dma.Port.TryEnter(out _));
        _dma.Port.IsBusMaster = true;
        _dma.Group.ReleaseUser(_dma);
        Assert.False(_dma.Port.TryEnter(out _));
    }

    [Fact]
    public void A_change_names_what_changed_and_no_more()
    {
        var changes = new List<DmaChange>();
        _dma.Port.SetChangeCallback(changes.Add);
        Assert.Equal(Errno.None, _dma.Map(0x1000, 2 * Page));
        Assert.Equal(Errno.EEXIST, _dma.Map(0x2000, Page));
        Assert.Equal(Errno.None, _dma.Map(0x8000, Page));
        Assert.Equal(Errno.None, _dma.Unmap(0x1000, 3 * Page, out _));
        Assert.Equal(Errno.None, _dma.Unmap(0x1000, 3 * Page, out _));
        _dma.Port.IsBusMaster = false;
        _dma.Port.IsBusMaster = true;
        Assert.True(_dma.Space.TryUnmapAll(out _, out _));
        Assert.Equal(
            [
                new(DmaChangeKind.Mapped, new IovaRange(new Iova(0x1000), 2 * Page)),
                new(DmaChangeKind.Mapped, new IovaRange(new Iova(0x8000), Page)),
                new(DmaChangeKind.Unmapped, new IovaRange(new Iova(0x1000), 3 * Page)),
                DmaChange.Everything,
                DmaChange.Everything,
                DmaChange.Everything,
            ],
            changes);
    }

    [Theory]
    [InlineData(0x1000, 0x1000, true)]
    [InlineData(0x0, 0x1001, true)]
    [InlineData(0x1fff, 1, true)]
    [InlineData(0x0, 0x1000, false)]
    [InlineData(0x2000, 0x1000, false)]
    public void An_unmap_takes_what_lies_in_its_range(ulong start, ulong size, bool taken)
    {
        var range = new IovaRange(new Iova(start), size);
        Assert.Equal(taken, new DmaChange(DmaChangeKind.Unmapped, new IovaRange(new Iova(0x1000), 0x1000)).Takes(range));
        Assert.True(DmaChange.Everything.Takes(range));
        Assert.False(new DmaChange(DmaChangeKind.Mapped, range).Takes(range));
    }

    [Fact]
    public void A_log_of_the_function_or_of_the_space_is_seen_by_who_asks()
    {
        var log = Log();
        var pasid = _dma.Port.ForPasid(1);
        Assert.False(_dma.Port.IsLogged);
        Assert.True(_dma.Port.TryStartLog(log, out _));
        Assert.True(_dma.Port.IsLogged && pasid.IsLogged);
        _dma.Port.StopLog();
        Assert.False(_dma.Port.IsLogged);
        Assert.True(_dma.Space.TryStartLog(log, out _));
        Assert.True(_dma.Port.IsLogged);
        _dma.Space.StopLog();
        Assert.False(_dma.Port.IsLogged);
    }

    [Fact]
    public void Unmap_waits_for_a_request_that_uses_the_memory_and_for_no_other()
    {
        Assert.Equal(Errno.None, _dma.Map(0x1000, Page, 0));
        Assert.Equal(Errno.None, _dma.Map(0x2000, Page, Page));
        var use = new DmaUse();
        _dma.Port.SetChangeCallback(change => use.WaitUntilUnused(change));
        Note(use, 0x1000, 0x10);
        // Not one of its pages: goes at once, on this thread.
        Assert.Equal(Errno.None, _dma.Unmap(0x2000, Page, out _));
        var unmap = new Thread(() => _dma.Unmap(0x1000, Page, out _)) { IsBackground = true };
        unmap.Start();
        // Unreachable first, and then it is waited for the end of the use.
        Assert.True(SpinWait.SpinUntil(() => Look(0x1000, 1, DmaAccess.Read).Error == Errno.EFAULT, TimeSpan.FromSeconds(20)));
        Assert.False(unmap.Join(50));
        use.End();
        Assert.True(unmap.Join(Deadline.Milliseconds));
    }

    [Fact]
    public void A_use_of_many_ranges_holds_each_of_them()
    {
        var use = new DmaUse();
        Assert.True(use.IsEmpty);
        for (var i = 1UL; i <= 20; i++)
            use.Add(new Iova(i * 0x10000), 0x100);
        for (var i = 1UL; i <= 20; i++)
            Assert.True(Waits(use, i * 0x10000 + 0xff, 1));
        Assert.False(Waits(use, 0, 0x10000));
        Assert.False(Waits(use, 0x10100, 0x100));
        use.End();
        Assert.True(use.IsEmpty);
        Assert.False(Waits(use, 0x10000, 0x100));
        // Side by side they are one.
        for (var i = 0UL; i < 100; i++)
            use.Add(new Iova(0x1000 + (i * 0x100)), 0x100);
        Assert.True(Waits(use, 0x1000 + (99 * 0x100), 0x100));
        Assert.False(Waits(use, 0x1000 + (100 * 0x100), 0x100));
    }

    [Fact]
    public void Memory_is_never_gone_under_its_use_while_others_map_and_unmap_it()
    {
        // A user that looks up, notes, writes and reads back, against an unmap of the same pages that overwrites the memory after each.
        var use = new DmaUse();
        using var stop = new CancellationTokenSource();
        _dma.Port.SetChangeCallback(change => use.WaitUntilUnused(change));
        long wrong = 0, used = 0;
        byte[] taken = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        var user = new Thread(() =>
        {
            var hint = default(DmaHint);
            for (var i = 0UL; !stop.IsCancellationRequested; i++)
            {
                if (!_dma.Port.TryEnter(out var section))
                    continue;
                var error = section.Translate(new Iova(0x1000 + (i % 4 * Page)), 8, DmaAccess.ReadWrite, ref hint, out var run);
                if (error == Errno.None)
                    use.Add(new Iova(0x1000 + (i % 4 * Page)), 8);
                section.Leave();
                if (error != Errno.None)
                    continue;
                var word = run.AsSpan();
                BitConverter.TryWriteBytes(word, i);
                Thread.SpinWait(20);
                if (BitConverter.ToUInt64(word) != i)
                    wrong++;
                used++;
                use.End();
            }
        });
        user.IsBackground = true;
        user.Start();
        try
        {
            for (var i = 0; i < 3000 || Volatile.Read(ref used) < 1000; i++)
            {
                var at = (ulong)(i % 4) * Page;
                Assert.Equal(Errno.None, _dma.Map(0x1000 + at, Page, at));
                Thread.SpinWait(i % 200);
                Assert.Equal(Errno.None, _dma.Unmap(0x1000 + at, Page, out _));
                // The memory is another's now.
                _dma.Memory.Write(at, taken);
            }
        }
        finally
        {
            stop.Cancel();
            Assert.True(user.Join(TimeSpan.FromSeconds(20)));
        }

        Assert.Equal(0, wrong);
    }

    [Fact]
    public void Unmap_waits_for_a_device_that_is_just_being_detached()
    {
        Assert.Equal(Errno.None, _dma.Map(0x1000, Page, 0));
        using var finished = new ManualResetEventSlim();
        using var asked = new ManualResetEventSlim();
        // A device that has a request in flight: it finishes that, for whoever asks it to let go.
        _dma.Port.SetChangeCallback(change =>
        {
            asked.Set();
            finished.Wait();
        });
        var detach = new Thread(() => _dma.Group.ReleaseUser(_dma)) { IsBackground = true };
        detach.Start();
        Assert.True(asked.Wait(Deadline.Milliseconds));
        var unmap = new Thread(() => _dma.Space.TryUnmap(new IovaRange(new Iova(0x1000), Page), out _, out _)) { IsBackground = true };
        unmap.Start();
        var isEarly = unmap.Join(100);
        finished.Set();
        Assert.True(detach.Join(Deadline.Milliseconds));
        Assert.True(unmap.Join(Deadline.Milliseconds));
        Assert.False(isEarly);
        // Once it is detached nothing of the space concerns it any more.
        asked.Reset();
        Assert.Equal(Errno.None, _dma.Map(0x1000, Page, 0));
        Assert.False(asked.IsSet);
        _dma.Port.SetChangeCallback(null);
    }

    [Fact]
    public void A_device_without_a_bus_lets_go_of_the_last_space_of_several()
    {
        using var one = new IoAddressSpace();
        using var other = new IoAddressSpace();
        var dma = new StandaloneDma("test");
        dma.Attach(one);
        dma.Attach(other);
        Assert.Same(other, dma.Port.AddressSpace);
        dma.Attach(null);
        Assert.Null(dma.Port.AddressSpace);
        dma.Attach(null);
        dma.Attach(one);
        Assert.Same(one, dma.Port.AddressSpace);
        dma.Attach(null);
    }

    private static DirtyLog Log()
    {
        Assert.True(DirtyLog.TryCreate(Page, [], out var log, out _));
        return log!;
    }

    private static bool Waits(DmaUse use, ulong start, ulong size)
    {
        var change = new DmaChange(DmaChangeKind.Unmapped, new IovaRange(new Iova(start), size));
        return use.Uses(change);
    }

    private void Note(DmaUse use, ulong address, uint length)
    {
        var hint = default(DmaHint);
        Assert.True(_dma.Port.TryEnter(out var section));
        Assert.Equal(Errno.None, section.Translate(new Iova(address), length, DmaAccess.Read, ref hint, out var run));
        use.Add(new Iova(address), (ulong)run.Length);
        section.Leave();
    }

    private (Errno Error, int Length) Look(ulong address, uint length, DmaAccess access)
    {
        var hint = default(DmaHint);
        Assert.True(_dma.Port.TryEnter(out var section));
        var error = section.Translate(new Iova(address), length, access, ref hint, out var run);
        section.Leave();
        return (error, (int)run.Length);
    }
}
