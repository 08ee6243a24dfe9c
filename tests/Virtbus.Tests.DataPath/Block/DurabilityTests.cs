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
