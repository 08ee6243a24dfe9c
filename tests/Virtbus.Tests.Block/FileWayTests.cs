using FsCheck;
using FsCheck.Fluent;
using Virtbus.Block;
using Virtbus.Platform;
using Virtbus.Platform.IoUring;

namespace Virtbus.Tests.Block;

/// <summary>All ways into all back ends do the same as a plain array of bytes.</summary>
public sealed class FileWayTests : IDisposable
{
    private const int Sector = 512;
    private const int Sectors = BlockDisks.Size / Sector;
    private readonly BlockDisks _disks = new();

    public static TheoryData<string> Kinds => BlockDisks.Kinds;

    public static TheoryData<string> Files => BlockDisks.Files;

    public void Dispose() => _disks.Dispose();

    private sealed record Step(BlockOperation Operation, int Sector, int Count, int RunSize, int Start, byte Seed);

    private static Arbitrary<Step[]> Steps()
    {
        var operation = Gen.Elements(
            BlockOperation.Read, BlockOperation.Read, BlockOperation.Write, BlockOperation.Write, BlockOperation.Flush, BlockOperation.Discard, BlockOperation.WriteZeroes);
        var place = Gen.Choose(0, Sectors - 1).Zip(Gen.Choose(0, 64));
        // Runs that are aligned for direct transfers, that are not, and more than one call takes.
        var runs = Gen.Elements(int.MaxValue, 4096, 512, 100, 7).Zip(Gen.Elements(0, 0, 512, 1, 13));
        return operation.Zip(place).Zip(runs).Zip(Gen.Choose(1, 255))
            .Select(t => new Step(t.Item1.Item1.Item1, t.Item1.Item1.Item2.Item1, Math.Min(t.Item1.Item1.Item2.Item2, Sectors - t.Item1.Item1.Item2.Item1),
                t.Item1.Item2.Item1, t.Item1.Item2.Item2, (byte)t.Item2))
            .ArrayOf().ToArbitrary();
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Requests_do_what_they_do_to_an_array_of_bytes(string kind)
    {
        var disk = _disks.Open(kind);
        using var channel = disk.OpenChannel(8);
        using var buffer = new BlockBuffer(BlockDisks.Size);
        var model = new byte[BlockDisks.Size];
        Prop.ForAll(Steps(), steps =>
        {
            foreach (var step in steps)
                Apply(channel, buffer, model, step);
            return true;
        }).Check(Config.QuickThrowOnFailure.WithMaxTest(60));
        Assert.Equal(Errno.None, channel.Do(buffer.Request(BlockOperation.Read, 0, BlockDisks.Size)));
        Assert.Equal(model, buffer.Bytes.ToArray());
        if (disk is FileBackend)
            Assert.Equal(model, _disks.Content(kind));
    }

    private static void Apply(IBlockChannel channel, BlockBuffer buffer, byte[] model, Step step)
    {
        var (offset, length) = (step.Sector * Sector, step.Count * Sector);
        var memory = buffer.Bytes.Slice(step.Start, length);
        // 4096 runs are all that the buffer has.
        var runSize = Math.Max(step.RunSize, (length + 4095) / 4096);
        for (var i = 0; i < length; i++)
            memory[i] = (byte)(step.Seed + i);
        var wanted = memory.ToArray();
        var request = buffer.Request(step.Operation, offset, length, step.Start, runSize);
        request.MayUnmap = (step.Seed & 1) == 0;
        request.IsDurable = (step.Seed & 2) == 0;
        Assert.Equal(Errno.None, channel.Do(request));
        switch (step.Operation)
        {
            case BlockOperation.Read:
                Assert.True(memory.SequenceEqual(model.AsSpan(offset, length)));
                break;
            case BlockOperation.Write:
                wanted.CopyTo(model, offset);
                break;
            case BlockOperation.Discard or BlockOperation.WriteZeroes:
                model.AsSpan(offset, length).Clear();
                break;
        }
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Runs_that_begin_aligned_and_have_odd_lengths_are_moved_whole(string kind)
    {
        using var channel = _disks.Open(kind).OpenChannel(4);
        using var buffer = new BlockBuffer(3 * 4096);
        var first = buffer.Request(BlockOperation.Write, 0, 3 * 4096).Runs[0].Address;
        var runs = GC.AllocateArray<IoVector>(2, pinned: true);
        (runs[0], runs[1]) = (new IoVector(first, 100), new IoVector(first + 8192, 412));
        var request = new BlockRequest { Operation = BlockOperation.Write, Offset = 512, Length = 512 };
        request.SetRuns(runs);
        for (var i = 0; i < buffer.Bytes.Length; i++)
            buffer.Bytes[i] = (byte)(i % 251);
        var wanted = buffer.Bytes.ToArray();
        Assert.Equal(Errno.None, channel.Do(request));
        buffer.Bytes.Clear();
        request.Operation = BlockOperation.Read;
        Assert.Equal(Errno.None, channel.Do(request));
        Assert.Equal(wanted[..100], buffer.Bytes[..100].ToArray());
        Assert.Equal(wanted[8192..8604], buffer.Bytes[8192..8604].ToArray());
        Assert.True(buffer.Bytes[100..8192].IndexOfAnyExcept((byte)0) < 0);
    }

    [Theory]
    [InlineData("direct")]
    [InlineData("direct-worker")]
    public void Direct_runs_need_lengths_of_whole_sectors_also_where_addresses_need_less(string kind)
    {
        // What an NVMe says, statx(2): addresses in units of 4. Windows gives pieces like these.
        var disk = _disks.OpenFile(kind);
        disk.DirectMemoryAlignment = 4;
        using var channel = disk.OpenChannel(4);
        using var buffer = new BlockBuffer(3 * 4096);
        var first = buffer.Request(BlockOperation.Write, 0, 3 * 4096).Runs[0].Address;
        var runs = GC.AllocateArray<IoVector>(2, pinned: true);
        (runs[0], runs[1]) = (new IoVector(first, 3952), new IoVector(first + 4096, 2704));
        var request = new BlockRequest { Operation = BlockOperation.Write, Offset = 512, Length = 6656 };
        request.SetRuns(runs);
        buffer.Bytes.Fill(0x3c);
        Assert.Equal(Errno.None, channel.Do(request));
        Assert.Equal(-1, _disks.Content(kind).AsSpan(512, 6656).IndexOfAnyExcept((byte)0x3c));
        buffer.Bytes.Clear();
        request.Operation = BlockOperation.Read;
        Assert.Equal(Errno.None, channel.Do(request));
        Assert.Equal(-1, buffer.Bytes[..3952].IndexOfAnyExcept((byte)0x3c));
        Assert.Equal(-1, buffer.Bytes.Slice(4096, 2704).IndexOfAnyExcept((byte)0x3c));
        Assert.Equal(-1, buffer.Bytes[3952..4096].IndexOfAnyExcept((byte)0));
    }

    [Theory]
    [InlineData("tmpfs", true, 3, 0, 0)]
    [InlineData("cached", true, 2, 1, 0)]
    [InlineData("cached", false, 1, 2, 0)]
    [InlineData("uring", true, 0, 3, 0)]
    [InlineData("worker", true, 0, 0, 3)]
    [InlineData("direct", true, 0, 3, 0)]
    [InlineData("direct-worker", true, 0, 0, 3)]
    public void Way_is_counted(string kind, bool ownsThread, int inPlace, int uring, int worker)
    {
        using var channel = _disks.Open(kind).OpenChannel(4, ownsThread);
        using var buffer = new BlockBuffer(4096);
        if (kind != "tmpfs" && kind != "worker" && kind != "direct-worker" && IoRing.TryCreate(1, out var error) is var ring)
        {
            if (ring is null)
                Assert.Skip(IoRing.Explain(error));
            ring.Dispose();
        }

        Assert.Equal(Errno.None, channel.Do(buffer.Request(BlockOperation.Write, 0, 4096)));
        Assert.Equal(Errno.None, channel.Do(buffer.Request(BlockOperation.Read, 0, 4096)));
        Assert.Equal(Errno.None, channel.Do(buffer.Request(BlockOperation.Flush, 0, 0)));
        Assert.Equal(new BlockWays((ulong)inPlace, (ulong)uring, (ulong)worker), channel.Ways);
    }

    [Fact]
    public void What_the_page_cache_has_not_is_read_by_the_kernel_meanwhile()
    {
        var path = _disks.PathOf("cached");
        File.WriteAllBytes(path, [.. Enumerable.Range(0, BlockDisks.Size).Select(i => (byte)(i / Sector))]);
        var disk = _disks.OpenFile("cached");
        Drop(path);
        using var channel = disk.OpenChannel(4);
        using var buffer = new BlockBuffer(8192);
        Assert.Equal(Errno.None, channel.Do(buffer.Request(BlockOperation.Read, 128 * Sector, 8192)));
        Assert.Equal(128, buffer.Bytes[0]);
        Assert.Equal(143, buffer.Bytes[8191]);
        Assert.Equal(0ul, channel.Ways.InPlace);
        Assert.Equal(Errno.None, channel.Do(buffer.Request(BlockOperation.Read, 128 * Sector, 8192)));
        Assert.Equal(1ul, channel.Ways.InPlace);
    }

    [Fact]
    public void What_the_page_cache_has_half_is_read_in_one_piece()
    {
        var path = _disks.PathOf("cached");
        File.WriteAllBytes(path, [.. Enumerable.Range(0, BlockDisks.Size).Select(i => (byte)(i / Sector))]);
        var disk = _disks.OpenFile("cached");
        using var channel = disk.OpenChannel(4);
        using var buffer = new BlockBuffer(128 << 10);
        foreach (var runSize in new[] { int.MaxValue, 4096, 5000, 100 })
        {
            Drop(path);
            // Some pages here and there, without reading ahead.
            for (var page = 0; page < 32; page += 5)
                Assert.Equal(Errno.None, channel.Do(buffer.Request(BlockOperation.Read, page * 4096, 512)));
            buffer.Bytes.Clear();
            Assert.Equal(Errno.None, channel.Do(buffer.Request(BlockOperation.Read, 0, 128 << 10, 0, runSize)));
            for (var sector = 0; sector < 256; sector++)
                Assert.Equal((byte)sector, buffer.Bytes[(sector * Sector) + 17]);
        }
    }

    // Out of the page cache: what is there is written first.
    private static void Drop(string path)
    {
        using var file = FileDescriptor.TryOpen(path, writable: true, out _);
        Assert.Equal(Errno.None, file!.SyncData());
        Assert.Equal(0, Advise(file.Number, 0, 0, 4));
    }

    [System.Runtime.InteropServices.DllImport("libc", EntryPoint = "posix_fadvise")]
    [System.Runtime.InteropServices.DefaultDllImportSearchPaths(System.Runtime.InteropServices.DllImportSearchPath.SafeDirectories)]
    private static extern int Advise(int file, long offset, long length, int advice);

    [Fact]
    public void What_is_done_while_the_caller_prepares_to_wait_for_the_signal_is_found_without_one()
    {
        var ring = IoRing.TryCreate(1, out var error);
        Assert.SkipWhen(ring is null, IoRing.Explain(error));
        ring!.Dispose();
        using var channel = _disks.OpenFile("uring").OpenChannel(1);
        using var buffer = new BlockBuffer(BlockDisks.Size);
        // More runs than one call takes: the rest goes to the kernel, which has it in its cache, when the beginning is reaped.
        var request = buffer.Request(BlockOperation.Read, 0, BlockDisks.Size, 0, 100);
        Assert.False(channel.Submit(request));
        channel.Commit();
        while (channel.TryReap() is null)
        {
            var since = System.Diagnostics.Stopwatch.GetTimestamp();
            channel.Wait(2 * Deadline.Milliseconds);
            Assert.InRange(System.Diagnostics.Stopwatch.GetElapsedTime(since).TotalMilliseconds, 0, Deadline.Milliseconds);
        }

        Assert.Equal(Errno.None, request.Result);
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Requests_of_many_channels_at_once_keep_apart(string kind)
    {
        const int Channels = 3;
        const int Depth = 16;
        const int Share = BlockDisks.Size / Channels / Sector / Depth * Sector;
        var disk = _disks.Open(kind);
        var failures = new System.Collections.Concurrent.ConcurrentQueue<Exception>();
        var threads = Enumerable.Range(0, Channels).Select(index => new Thread(() =>
        {
            try
            {
                using var channel = disk.OpenChannel(Depth);
                Hammer(channel, index * Share * Depth, Share, Depth, new Random(index));
            }
            catch (Exception e)
            {
                failures.Enqueue(e);
            }
        })).ToList();
        threads.ForEach(t => t.Start());
        threads.ForEach(t => t.Join());
        Assert.Empty(failures);
    }

    // Each place in flight has a part of the disk of its own, which it writes and reads in turn.
    private static void Hammer(IBlockChannel channel, long start, int share, int depth, Random draw)
    {
        var buffers = Enumerable.Range(0, depth).Select(_ => new BlockBuffer(share)).ToArray();
        var requests = buffers.Select(b => new BlockRequest(b)).ToArray();
        var states = new int[depth];
        var inFlight = 0;
        var left = 2000;

        void Begin(int place)
        {
            // Asked at once again where it is done at once.
            while (left-- > 0)
            {
                var write = (states[place] & 1) == 0;
                if (write)
                    buffers[place].Bytes.Fill((byte)(states[place] + place + 1));
                else
                    buffers[place].Bytes.Clear();
                buffers[place].Fill(requests[place], write ? BlockOperation.Write : BlockOperation.Read, start + ((long)place * share), share, 0, draw.Next(2) == 0 ? int.MaxValue : 1000);
                if (!channel.Submit(requests[place]))
                {
                    inFlight++;
                    return;
                }

                Check(place);
            }
        }

        void Check(int place)
        {
            Assert.Equal(Errno.None, requests[place].Result);
            if ((states[place] & 1) == 1)
                Assert.True(!buffers[place].Bytes.ContainsAnyExcept((byte)(states[place] - 1 + place + 1)), "what was read is not what was written");
            states[place]++;
        }

        for (var place = 0; place < Math.Min(depth, Math.Max(channel.Depth, 1)); place++)
            Begin(place);
        channel.Commit();
        while (inFlight > 0)
        {
            if (channel.TryReap() is not { } done)
            {
                channel.Commit();
                channel.Wait(-1);
                continue;
            }

            inFlight--;
            var place = Array.IndexOf(requests, done);
            Check(place);
            Begin(place);
        }

        foreach (var buffer in buffers)
            buffer.Dispose();
    }

    [Theory]
    [InlineData("uring")]
    [InlineData("worker")]
    [InlineData("cached")]
    public void Request_allocates_nothing(string kind)
    {
        using var channel = _disks.Open(kind).OpenChannel(4);
        using var buffer = new BlockBuffer(4096);
        var read = buffer.Request(BlockOperation.Read, 0, 4096);
        for (var i = 0; i < 100; i++)
            channel.Do(read);
        var before = GC.GetAllocatedBytesForCurrentThread();
        for (var i = 0; i < 2000; i++)
            channel.Do(read);
        // A path that is rarely taken costs the runtime something the first time; a request that allocated at all would make 48 KB.
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 20_000);
    }
}
