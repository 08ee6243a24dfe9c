using System.Runtime.InteropServices;
using Virtbus.Block;
using Virtbus.Platform;

namespace Virtbus.Tests.DataPath.Block;

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
