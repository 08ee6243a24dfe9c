using Virtbus.Block;
using Virtbus.Platform;

namespace Virtbus.Tests.Block;

public sealed class FaultyBackendTests : IDisposable
{
    private readonly MemoryBackend _memory = new(256 << 10);
    private readonly BlockBuffer _buffer = new(64 << 10);

    public void Dispose()
    {
        _buffer.Dispose();
        _memory.Dispose();
    }

    // What became of a number of requests, in the order in which they came back.
    private List<(int Number, Errno Result)> Fate(FaultPlan plan, int count = 200, int depth = 16)
    {
        using var disk = new FaultyBackend(_memory, plan);
        using var channel = disk.OpenChannel(depth);
        var requests = Enumerable.Range(0, count).Select(i => _buffer.Request(i % 3 == 0 ? BlockOperation.Read : BlockOperation.Write, i * 1024L, 1024)).ToList();
        var fate = new List<(int, Errno)>();
        var next = 0;
        while (fate.Count < count)
        {
            while (next < count && next - fate.Count < channel.Depth)
                Assert.False(channel.Submit(requests[next++]));
            channel.Commit();
            var any = false;
            while (channel.TryReap() is { } done)
            {
                any = true;
                fate.Add((requests.IndexOf(done), done.Result));
            }

            if (!any)
                channel.Wait(-1);
        }

        return fate;
    }

    [Fact]
    public void Same_seed_is_the_same_fate_and_another_one_is_not()
    {
        var plan = new FaultPlan { Seed = 3, Fail = 0.2, Errors = [Errno.EIO, Errno.ENOSPC], Delay = 0.3, Reorder = true };
        var first = Fate(plan);
        Assert.Equal(first, Fate(plan));
        Assert.NotEqual(first, Fate(plan with { Seed = 4 }));
        Assert.Equal(200, first.Select(f => f.Number).Distinct().Count());
        Assert.InRange(first.Count(f => f.Result == Errno.EIO), 5, 60);
        Assert.InRange(first.Count(f => f.Result == Errno.ENOSPC), 5, 60);
    }

    [Fact]
    public void Plan_without_faults_keeps_the_order() =>
        Assert.Equal(Enumerable.Range(0, 200).Select(i => (i, Errno.None)), Fate(new FaultPlan()));

    [Fact]
    public void What_is_delayed_is_overtaken()
    {
        var order = Fate(new FaultPlan { Seed = 1, Delay = 0.2 }).Select(f => f.Number).ToList();
        Assert.NotEqual(order.Order(), order);
        // Those that were not delayed keep their order: most pairs do.
        Assert.InRange(order.Zip(order.Skip(1)).Count(p => p.First < p.Second), 120, 199);
    }

    [Fact]
    public void Torn_write_leaves_a_beginning_of_whole_blocks()
    {
        using var disk = new FaultyBackend(_memory, new FaultPlan { Seed = 5, Tear = 1 });
        using var channel = disk.OpenChannel(1);
        using var plain = _memory.OpenChannel(1);
        var lengths = new HashSet<int>();
        for (var i = 0; i < 40; i++)
        {
            Assert.Equal(Errno.None, plain.Do(_buffer.Request(BlockOperation.WriteZeroes, 0, 64 << 10)));
            _buffer.Bytes.Fill(0x5a);
            Assert.Equal(Errno.EIO, channel.Do(_buffer.Request(BlockOperation.Write, 0, 8192, 0, 3000)));
            Assert.Equal(Errno.None, plain.Do(_buffer.Request(BlockOperation.Read, 0, 64 << 10)));
            var length = _buffer.Bytes.IndexOfAnyExcept((byte)0x5a);
            Assert.True(_buffer.Bytes[length..].IndexOfAnyExcept((byte)0) < 0);
            Assert.Equal(0, length % 512);
            Assert.InRange(length, 0, 8192 - 512);
            lengths.Add(length);
        }

        Assert.InRange(lengths.Count, 5, 16);
    }

    [Fact]
    public void Only_what_is_meant_fails()
    {
        using var disk = new FaultyBackend(_memory, new FaultPlan { Fail = 1, Where = r => r.Operation == BlockOperation.Flush });
        using var channel = disk.OpenChannel(1);
        Assert.Equal(Errno.None, channel.Do(_buffer.Request(BlockOperation.Write, 0, 512)));
        Assert.Equal(Errno.EIO, channel.Do(_buffer.Request(BlockOperation.Flush, 0, 0)));
        disk.Plan = new FaultPlan();
        Assert.Equal(Errno.None, channel.Do(_buffer.Request(BlockOperation.Flush, 0, 0)));
    }

    [Fact]
    public void Size_of_the_disk_behind_is_told()
    {
        using var nothing = new NullBackend(1 << 20);
        using var disk = new FaultyBackend(nothing, new FaultPlan());
        var told = 0;
        disk.InfoChanged += (_, _) => told++;
        nothing.Resize(2 << 20);
        Assert.Equal((1, 2 << 20), (told, (int)disk.Info.Capacity));
    }

    [Fact]
    public void Identity_is_the_serial_and_zeros()
    {
        using var channel = _memory.OpenChannel(1);
        _buffer.Bytes.Fill(0xee);
        Assert.Equal(Errno.None, channel.Do(_buffer.Request(BlockOperation.GetId, 0, 24, 0, 7)));
        Assert.True(_buffer.Bytes[..24].IndexOfAnyExcept((byte)0) < 0);
        Assert.Equal(0xee, _buffer.Bytes[24]);
    }
}
