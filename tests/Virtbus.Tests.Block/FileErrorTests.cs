using Virtbus.Block;
using Virtbus.Platform;
using Virtbus.Platform.IoUring;

namespace Virtbus.Tests.Block;

/// <summary>What goes wrong with a file is the answer to the request that it went wrong for, on every way.</summary>
public sealed class FileErrorTests : IDisposable
{
    private readonly BlockDisks _disks = new();
    private readonly BlockBuffer _buffer = new(64 << 10);

    public static TheoryData<string> Files => BlockDisks.Files;

    public void Dispose()
    {
        _buffer.Dispose();
        _disks.Dispose();
    }

    [Theory]
    [MemberData(nameof(Files))]
    public void Read_beyond_the_end_of_a_file_that_was_cut_is_an_error(string kind)
    {
        using var channel = _disks.OpenFile(kind).OpenChannel(4);
        using (var file = FileDescriptor.TryOpen(_disks.PathOf(kind), writable: true, out _))
            Assert.Equal(Errno.None, file!.SetLength(8192));
        Assert.Equal(Errno.EIO, channel.Do(_buffer.Request(BlockOperation.Read, 8192, 4096)));
        // Half of it is there.
        Assert.Equal(Errno.EIO, channel.Do(_buffer.Request(BlockOperation.Read, 4096, 8192)));
        Assert.Equal(Errno.EIO, channel.Do(_buffer.Request(BlockOperation.Read, 4096, 8192, 0, 4096)));
        Assert.Equal(Errno.None, channel.Do(_buffer.Request(BlockOperation.Read, 4096, 4096)));
    }

    [Theory]
    [MemberData(nameof(Files))]
    public void Memory_that_is_gone_is_an_error(string kind)
    {
        using var channel = _disks.OpenFile(kind).OpenChannel(4);
        var runs = GC.AllocateArray<IoVector>(1, pinned: true);
        // No page is ever there.
        runs[0] = new IoVector(4096, 4096);
        var request = new BlockRequest { Operation = BlockOperation.Read, Offset = 0, Length = 4096 };
        request.SetRuns(runs);
        Assert.Equal(Errno.EFAULT, channel.Do(request));
        Assert.Equal(Errno.None, channel.Do(_buffer.Request(BlockOperation.Read, 0, 4096)));
    }

    [Theory]
    [InlineData(nameof(FileWay.Best))]
    [InlineData(nameof(FileWay.Uring))]
    [InlineData(nameof(FileWay.Worker))]
    public void Full_file_system_is_an_error_of_the_write(string way)
    {
        if (!Environment.IsPrivilegedProcess)
            Assert.Skip("only root mounts a small tmpfs");
        var folder = Directory.CreateTempSubdirectory("virtbus-small");
        Assert.Equal(0, Run("mount", "-t", "tmpfs", "-o", "size=64k", "none", folder.FullName));
        try
        {
            var path = Path.Combine(folder.FullName, "disk");
            using (var file = File.OpenHandle(path, FileMode.Create, FileAccess.Write))
                RandomAccess.SetLength(file, 1 << 20);
            using var disk = FileBackend.Open(path);
            disk.Way = Enum.Parse<FileWay>(way);
            using var channel = disk.OpenChannel(4);
            Assert.Equal(Errno.None, channel.Do(_buffer.Request(BlockOperation.Write, 0, 32 << 10)));
            Assert.Equal(Errno.ENOSPC, channel.Do(_buffer.Request(BlockOperation.Write, 512 << 10, 64 << 10)));
            // Room that is given back is there again.
            Assert.Equal(Errno.None, channel.Do(_buffer.Request(BlockOperation.Discard, 0, 1 << 20)));
            Assert.Equal(Errno.None, channel.Do(_buffer.Request(BlockOperation.Write, 768 << 10, 32 << 10)));
        }
        finally
        {
            Assert.Equal(0, Run("umount", folder.FullName));
            folder.Delete();
        }
    }

    [Theory]
    [InlineData("cached")]
    [InlineData("uring")]
    [InlineData("worker")]
    [InlineData("direct")]
    public void More_than_the_depth_is_refused(string kind)
    {
        using var channel = _disks.OpenFile(kind).OpenChannel(2);
        Assert.Equal(2, channel.Depth);
        var requests = Enumerable.Range(0, 3).Select(_ => _buffer.Request(BlockOperation.Flush, 0, 0)).ToArray();
        Assert.False(channel.Submit(requests[0]));
        Assert.False(channel.Submit(requests[1]));
        Assert.True(channel.Submit(requests[2]));
        Assert.Equal(Errno.EBUSY, requests[2].Result);
        channel.Commit();
        for (var done = 0; done < 2; done += channel.TryReap() is null ? 0 : 1)
            channel.Wait(100);
    }

    [Theory]
    [InlineData(Errno.EPERM, "seccomp")]
    [InlineData(Errno.ENOSYS, "no io_uring")]
    public void Host_that_forbids_io_uring_gets_a_worker(Errno answer, string words)
    {
        IoRing.Refuses = answer;
        try
        {
            using var channel = _disks.OpenFile("direct").OpenChannel(4);
            Assert.Equal(Errno.None, channel.Do(_buffer.Request(BlockOperation.Write, 0, 4096)));
            Assert.Equal(new BlockWays(0, 0, 1), channel.Ways);
            Assert.Contains(words, IoRing.Explain(answer), StringComparison.Ordinal);
        }
        finally
        {
            IoRing.Refuses = Errno.None;
        }
    }

    [Theory]
    [MemberData(nameof(Files))]
    public void Host_without_room_for_a_thread_still_serves(string kind)
    {
        ServiceThread.Refuses = name => name.Contains("-io", StringComparison.Ordinal);
        try
        {
            using var channel = _disks.OpenFile(kind).OpenChannel(4);
            Assert.Equal(Errno.None, channel.Do(_buffer.Request(BlockOperation.Write, 0, 4096)));
            Assert.Equal(Errno.None, channel.Do(_buffer.Request(BlockOperation.Read, 0, 4096)));
        }
        finally
        {
            ServiceThread.Refuses = null;
        }
    }

    [Theory]
    [MemberData(nameof(Files))]
    public void Channel_that_is_closed_has_nothing_in_flight(string kind)
    {
        var disk = _disks.OpenFile(kind);
        for (var round = 0; round < 50; round++)
        {
            var channel = disk.OpenChannel(32);
            var buffers = Enumerable.Range(0, channel.Depth).Select(_ => new BlockBuffer(4096)).ToArray();
            foreach (var buffer in buffers)
                channel.Submit(buffer.Request(BlockOperation.Read, round * 4096, 4096));
            if (round % 2 == 0)
                channel.Commit();
            channel.Dispose();
            // A transfer that came now would go to memory that is free, or to this.
            foreach (var buffer in buffers)
                buffer.Bytes.Fill(0xee);
            foreach (var buffer in buffers)
            {
                Assert.False(buffer.Bytes.ContainsAnyExcept((byte)0xee));
                buffer.Dispose();
            }
        }
    }

    [Theory]
    [MemberData(nameof(Files))]
    public void Closed_channels_leave_no_descriptor(string kind)
    {
        var disk = _disks.OpenFile(kind);
        using (var first = disk.OpenChannel(32))
            first.Do(_buffer.Request(BlockOperation.Read, 0, 4096));
        Leftovers.Clear();
        var before = Open();
        for (var i = 0; i < 40; i++)
        {
            using var channel = disk.OpenChannel(32);
            Assert.Equal(Errno.None, channel.Do(_buffer.Request(BlockOperation.Read, 0, 4096)));
            Assert.Equal(Errno.None, channel.Do(_buffer.Request(BlockOperation.Flush, 0, 0)));
        }

        Assert.Equal(before, Open());
    }

    private static int Open() => Directory.EnumerateFileSystemEntries("/proc/self/fd").Count(entry =>
        new FileInfo(entry).LinkTarget is { } target && (target is "anon_inode:[eventfd]" or "anon_inode:[io_uring]" || target.Contains("virtbus-block", StringComparison.Ordinal)));

    [Theory]
    [MemberData(nameof(Files))]
    public void Discard_gives_the_room_back(string kind)
    {
        const int Size = 1 << 20;
        var disk = _disks.OpenFile(kind, Size);
        using var channel = disk.OpenChannel(4);
        for (var at = 0; at < Size; at += 64 << 10)
        {
            _buffer.Bytes.Fill(0x77);
            Assert.Equal(Errno.None, channel.Do(_buffer.Request(BlockOperation.Write, at, 64 << 10)));
        }

        Assert.Equal(Errno.None, channel.Do(_buffer.Request(BlockOperation.Flush, 0, 0)));
        var before = Room(kind);
        Assert.InRange(before, Size, Size * 2);
        Assert.Equal(Errno.None, channel.Do(_buffer.Request(BlockOperation.Discard, 256 << 10, 512 << 10)));
        Assert.InRange(Room(kind), 0, before - (512 << 10));
        var unmap = _buffer.Request(BlockOperation.WriteZeroes, 0, 128 << 10);
        unmap.MayUnmap = true;
        Assert.Equal(Errno.None, channel.Do(unmap));
        Assert.InRange(Room(kind), 0, before - (640 << 10));
        Assert.Equal(Size, new FileInfo(_disks.PathOf(kind)).Length);
        Assert.Equal(0x77, _disks.Content(kind)[Size - 1]);
    }

    private long Room(string kind)
    {
        using var stat = System.Diagnostics.Process.Start(new System.Diagnostics.ProcessStartInfo("stat", ["-c", "%b", _disks.PathOf(kind)]) { RedirectStandardOutput = true, UseShellExecute = false })!;
        var blocks = long.Parse(stat.StandardOutput.ReadToEnd(), System.Globalization.CultureInfo.InvariantCulture);
        stat.WaitForExit();
        return blocks * 512;
    }

    [Theory]
    [MemberData(nameof(Files))]
    public void Other_size_is_told_and_served(string kind)
    {
        var disk = _disks.OpenFile(kind);
        using var channel = disk.OpenChannel(4);
        var told = 0;
        disk.InfoChanged += (_, _) => told++;
        disk.Resize(2 * BlockDisks.Size);
        Assert.Equal(1, told);
        Assert.Equal(2 * BlockDisks.Size, disk.Info.Capacity);
        Assert.Equal(Errno.None, channel.Do(_buffer.Request(BlockOperation.Write, (2 * BlockDisks.Size) - 4096, 4096)));
        // Another program's doing.
        using (var file = FileDescriptor.TryOpen(_disks.PathOf(kind), writable: true, out _))
            Assert.Equal(Errno.None, file!.SetLength(BlockDisks.Size + 1));
        Assert.Equal(Errno.EINVAL, Assert.Throws<VirtbusException>(() => disk.Refresh()).Errno);
        Assert.Equal(2 * BlockDisks.Size, disk.Info.Capacity);
        using (var file = FileDescriptor.TryOpen(_disks.PathOf(kind), writable: true, out _))
            Assert.Equal(Errno.None, file!.SetLength(BlockDisks.Size));
        Assert.True(disk.Refresh());
        Assert.False(disk.Refresh());
        Assert.Equal(2, told);
        Assert.Equal(BlockDisks.Size, disk.Info.Capacity);
        Assert.Equal(Errno.EINVAL, Assert.Throws<VirtbusException>(() => disk.Resize(100)).Errno);
    }

    [Fact]
    public void Direct_transfers_take_larger_blocks_than_the_file_system_has()
    {
        File.WriteAllBytes(_disks.PathOf("direct"), new byte[64 << 10]);
        using var disk = FileBackend.Open(_disks.PathOf("direct"), blockSize: 4096, direct: true);
        using var channel = disk.OpenChannel(1);
        Assert.True(disk.IsDirect);
        Assert.Equal(Errno.None, channel.Do(_buffer.Request(BlockOperation.Write, 4096, 4096, start: 3)));
    }

    [Fact]
    public void Closed_disk_gives_its_lock_back_at_once()
    {
        var path = _disks.PathOf("cached");
        File.WriteAllBytes(path, new byte[8192]);
        for (var i = 0; i < 20; i++)
        {
            using var disk = FileBackend.Open(path);
            disk.Way = FileWay.Uring;
            using var channel = disk.OpenChannel(8);
            Assert.Equal(Errno.None, channel.Do(_buffer.Request(BlockOperation.Write, 0, 4096)));
        }
    }

    private static int Run(string program, params string[] arguments)
    {
        using var process = System.Diagnostics.Process.Start(program, arguments);
        process.WaitForExit();
        return process.ExitCode;
    }
}
