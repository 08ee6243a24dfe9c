using System.Runtime.InteropServices;
using Virtbus.Block;
using Virtbus.Platform;

namespace Virtbus.Tests.Block;

/// <summary>What is answered as durable is with the disk, by the kernel's own account of what in the page cache is not.</summary>
public sealed class DurabilityTests : IDisposable
{
    private const int Length = 64 << 10;

    // cachestat(2), from Linux 6.5 on; the number is the same on every architecture.
    private const nint CacheStat = 451;
    private readonly BlockDisks _disks = new();

    public void Dispose() => _disks.Dispose();

    [Theory]
    [InlineData("cached", true)]
    [InlineData("cached", false)]
    [InlineData("uring", true)]
    [InlineData("worker", true)]
    public void What_a_flush_or_a_durable_write_has_answered_is_with_the_disk(string kind, bool ownsThread)
    {
        using var channel = _disks.Open(kind).OpenChannel(4, ownsThread);
        using var buffer = new BlockBuffer(Length);
        Assert.Equal(Errno.None, channel.Do(buffer.Request(BlockOperation.Write, 0, Length)));
        Assert.SkipUnless(CountDirty(kind) > 0, "the kernel does not say what is dirty, or wrote it at once");
        Assert.Equal(Errno.None, channel.Do(buffer.Request(BlockOperation.Flush, 0, 0)));
        Assert.Equal(0, CountDirty(kind));
        // One run, and a list of them.
        foreach (var runSize in new[] { int.MaxValue, 4096 })
        {
            var request = buffer.Request(BlockOperation.Write, 0, Length, runSize: runSize);
            request.IsDurable = true;
            Assert.Equal(Errno.None, channel.Do(request));
            Assert.Equal(0, CountDirty(kind));
        }
    }

    [Theory]
    [InlineData(nameof(FileWay.Best))]
    [InlineData(nameof(FileWay.Uring))]
    [InlineData(nameof(FileWay.Worker))]
    public void Flush_that_failed_once_fails_for_every_queue_until_the_disk_is_opened_again(string way)
    {
        var file = new FuseDiskFile(1 << 20);
        using var mount = FuseMount.Make(file.Reply);
        using var buffer = new BlockBuffer(Length);
        using (var disk = FileBackend.Open(mount.Path))
        {
            disk.Way = Enum.Parse<FileWay>(way);
            var told = 0;
            disk.FlushFailed += (_, _) => told++;
            using var one = disk.OpenChannel(4);
            using var other = disk.OpenChannel(4, ownsThread: false);
            Assert.Equal(Errno.None, one.Do(buffer.Request(BlockOperation.Write, 0, 4096)));
            Assert.Equal(Errno.None, one.Do(buffer.Request(BlockOperation.Flush, 0, 0)));
            Assert.Equal((Errno.None, 0), (disk.FailedFlush, told));
            Assert.Equal(Errno.None, one.Do(buffer.Request(BlockOperation.Write, 0, 4096)));
            file.FailSyncs = 1;
            Assert.Equal(Errno.EIO, other.Do(buffer.Request(BlockOperation.Flush, 0, 0)));
            // The host has told it, and tells nobody again.
            Assert.Equal(0, file.FailSyncs);
            Assert.Equal(Errno.EIO, one.Do(buffer.Request(BlockOperation.Flush, 0, 0)));
            Assert.Equal(Errno.EIO, other.Do(buffer.Request(BlockOperation.Flush, 0, 0)));
            Assert.Equal((Errno.EIO, 1), (disk.FailedFlush, told));
            // It is only durability that there is none of.
            Assert.Equal(Errno.None, one.Do(buffer.Request(BlockOperation.Write, 0, 4096)));
            Assert.Equal(Errno.None, one.Do(buffer.Request(BlockOperation.Read, 0, 4096)));
        }

        using (var again = FileBackend.Open(mount.Path))
        using (var channel = again.OpenChannel(4))
            Assert.Equal(Errno.None, channel.Do(buffer.Request(BlockOperation.Flush, 0, 0)));
    }

    [Theory]
    [InlineData(nameof(FileWay.Uring), false)]
    [InlineData(nameof(FileWay.Worker), false)]
    [InlineData(nameof(FileWay.Uring), true)]
    [InlineData(nameof(FileWay.Worker), true)]
    public void Flushes_that_come_while_one_is_under_way_are_done_by_the_next_and_share_its_answer(string way, bool direct)
    {
        var file = new FuseDiskFile(1 << 20);
        using var mount = FuseMount.Make(file.Reply);
        using var buffer = new BlockBuffer(Length);
        using var disk = FileBackend.Open(mount.Path, direct: direct);
        disk.Way = Enum.Parse<FileWay>(way);
        using var channel = disk.OpenChannel(8, ownsThread: false);
        var flushes = Enumerable.Range(0, 4).Select(_ => buffer.Request(BlockOperation.Flush, 0, 0)).ToArray();
        file.Answers.Reset();
        foreach (var flush in flushes)
        {
            Assert.False(channel.Submit(flush));
            channel.Commit();
        }

        Deadline.Until(() => file.Syncs == 1, "the first flush");
        file.Answers.Set();
        Assert.Same(flushes[0], Next(channel));
        Assert.Equal(Errno.None, flushes[0].Result);
        Assert.Equal([flushes[1], flushes[2], flushes[3]], [Next(channel), Next(channel), Next(channel)]);
        Assert.Null(channel.TryReap());
        Assert.Equal(2, file.Syncs);

        // And so it fails.
        file.Answers.Reset();
        foreach (var flush in flushes)
            Assert.False(channel.Submit(flush));
        channel.Commit();
        Deadline.Until(() => file.Syncs == 3, "the first flush");
        file.FailSyncs = 1;
        file.Answers.Set();
        foreach (var flush in flushes)
            Assert.Same(flush, Next(channel));
        // A failed flush of the page cache is not followed by one that succeeds.
        var rest = direct ? Errno.None : Errno.EIO;
        Assert.Equal([Errno.EIO, rest, rest, rest], flushes.Select(f => f.Result));
    }

    [Fact]
    public void Each_queue_has_the_file_open_for_itself()
    {
        var file = new FuseDiskFile(1 << 20);
        using var mount = FuseMount.Make(file.Reply);
        using var disk = FileBackend.Open(mount.Path);
        var before = file.Opens;
        using (disk.OpenChannel(4))
        using (disk.OpenChannel(4))
            Assert.Equal(before + 2, file.Opens);
        // Its lock is not theirs.
        Assert.Throws<VirtbusException>(() => FileBackend.Open(mount.Path));
    }

    [Theory]
    [InlineData(nameof(FileWay.Uring))]
    [InlineData(nameof(FileWay.Worker))]
    public void Durable_write_that_the_host_failed_counts_as_a_flush_that_did(string way)
    {
        var file = new FuseDiskFile(1 << 20);
        using var mount = FuseMount.Make(file.Reply);
        using var buffer = new BlockBuffer(Length);
        using var disk = FileBackend.Open(mount.Path);
        disk.Way = Enum.Parse<FileWay>(way);
        using var channel = disk.OpenChannel(4);
        var write = buffer.Request(BlockOperation.Write, 0, 4096);
        write.IsDurable = true;
        file.FailSyncs = 1;
        Assert.Equal(Errno.EIO, channel.Do(write));
        Assert.Equal(Errno.EIO, channel.Do(buffer.Request(BlockOperation.Flush, 0, 0)));
    }

    [Fact]
    public void Direct_flush_that_failed_may_be_tried_again()
    {
        var file = new FuseDiskFile(1 << 20);
        using var mount = FuseMount.Make(file.Reply);
        using var buffer = new BlockBuffer(Length);
        using var disk = FileBackend.Open(mount.Path, direct: true);
        using var channel = disk.OpenChannel(4);
        file.FailSyncs = 1;
        Assert.Equal(Errno.EIO, channel.Do(buffer.Request(BlockOperation.Flush, 0, 0)));
        Assert.Equal(Errno.None, channel.Do(buffer.Request(BlockOperation.Flush, 0, 0)));
        Assert.Equal(Errno.None, disk.FailedFlush);
    }

    private static BlockRequest Next(IBlockChannel channel)
    {
        var deadline = Environment.TickCount64 + 60_000;
        while (true)
        {
            if (channel.TryReap() is { } request)
                return request;
            Assert.True(Environment.TickCount64 < deadline, "a request did not end");
            channel.Wait(100);
        }
    }

    private long CountDirty(string kind)
    {
        using var file = FileDescriptor.TryOpen(_disks.PathOf(kind), writable: true, out _);
        var all = default(CacheStatRange);
        return Call(CacheStat, file!, in all, out var pages, 0) == 0 ? (long)(pages.Dirty + pages.Writeback) : -1;
    }

    [DllImport("libc", EntryPoint = "syscall")]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static extern nint Call(nint number, FileDescriptor file, in CacheStatRange range, out CacheStatPages pages, nint flags);

    // A length of 0 is up to the end.
    [StructLayout(LayoutKind.Sequential)]
    private readonly struct CacheStatRange
    {
        private readonly ulong _offset;
        private readonly ulong _length;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct CacheStatPages
    {
        public ulong Cached;
        public ulong Dirty;
        public ulong Writeback;
        public ulong Evicted;
        public ulong RecentlyEvicted;
    }
}
