using Virtbus.Block;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Virtio;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Models.VirtioBlk;
using Virtbus.Platform;
using Virtbus.Subsystems.Block;
using Virtbus.Virtio;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>Virtio disks through functions, virtio_pci and virtio_blk, as disks of the block subsystem.</summary>
public sealed class VirtioBlkDriverTests : IDisposable
{
    private const int Capacity = 1 << 20;

    private readonly RecordingDisk _medium = new(Capacity);

    public void Dispose() => _medium.Dispose();

    [Theory]
    [InlineData(false, false, null, 1, 1024)]
    [InlineData(true, false, null, 1, 1024)]
    [InlineData(false, false, 0, 1, 1024)]
    [InlineData(true, false, 0, 2, 64)]
    [InlineData(false, false, 2, 4, 16)]
    [InlineData(true, false, null, 3, 4)]
    [InlineData(false, true, null, 1, 256)]
    [InlineData(false, true, 0, 2, 16)]
    public async Task What_is_written_is_read_and_lies_on_the_medium(bool isPacked, bool isLegacy, int? vectors, int queues, int size)
    {
        await using var rig = await VirtioRig.StartAsync();
        var disk = await AddAsync(rig, isPacked, isLegacy, vectors, queues, size);
        Assert.Equal((isLegacy, isPacked && !isLegacy), (rig.Only.IsLegacy, rig.Only.Has(VirtioFeatures.VIRTIO_F_RING_PACKED)));
        var random = new Random(queues + size);
        var expected = new byte[Capacity];
        using var user = new DiskUser(disk, depth: 16);
        for (var round = 0; round < 30; round++)
        {
            // Requests beside each other, some longer than what is copied at once, in runs that end anywhere.
            var requests = new List<BlockRequest>();
            for (var i = 0; i < 16; i++)
            {
                var length = 512 * random.Next(1, i == 3 ? 128 : 20);
                var at = i << 16;
                var first = random.Next(1, length);
                random.NextBytes(user.Bytes(at, length));
                user.Bytes(at, length).CopyTo(expected.AsSpan(at));
                requests.Add(user.Make(BlockOperation.Write, at, at, first, length - first));
            }

            DoAll(user, requests);
            using (var inner = new DirectUser(_medium))
                Assert.True(inner.Read(0, Capacity).AsSpan().SequenceEqual(expected), $"round {round}: the medium holds something else");
            var whole = user.Make(BlockOperation.Read, 0, 0, 7, 70_000, Capacity - 70_007);
            user.Bytes(0, Capacity).Clear();
            Assert.Equal(Errno.None, user.Do(whole));
            Assert.True(user.Bytes(0, Capacity).SequenceEqual(expected), $"round {round}: from {user.Bytes(0, Capacity).CommonPrefixLength(expected)} on something else is read");
        }

        Assert.Equal(0, ((PciDevice)rig.Only.Parent!).Dma.Faults);
    }

    [Fact]
    public async Task Disk_shows_what_the_device_says()
    {
        await using var rig = await VirtioRig.StartAsync();
        _medium.Become(_medium.Info with
        {
            BlockSize = 4096, PhysicalBlockExponent = 1, AlignmentOffset = 1, MinimumIoSize = 8192, OptimalIoSize = 65536, MaxDiscard = 1 << 19, DiscardAlignment = 8192, MaxWriteZeroes = 1 << 18,
        });
        var disk = await AddAsync(rig, queues: 3, size: 64, serial: "AB-1234 56");
        Assert.Equal(("vda", rig.Only.DevPath + "/block/vda", rig.Only), (disk.Name, disk.DevPath, disk.Parent));
        Assert.Equal(
            "2048 0 logical 4096 physical 8192 min 8192 opt 65536 nr 192 discard 8192 524288 zeroes 262144 cache write back fua 0 serial AB-1234 56",
            $"{Read("size")} {Read("ro")} logical {Read("queue/logical_block_size")} physical {Read("queue/physical_block_size")} min {Read("queue/minimum_io_size")} " +
            $"opt {Read("queue/optimal_io_size")} nr {Read("queue/nr_requests")} discard {Read("queue/discard_granularity")} {Read("queue/discard_max_bytes")} zeroes {Read("queue/write_zeroes_max_bytes")} " +
            $"cache {Read("queue/write_cache")} fua {Read("queue/fua")} serial {Read("serial")}");
        Assert.Equal(1, disk.Info.AlignmentOffset);
        Assert.Equal(["req.0", "req.1", "req.2"], rig.Only.Queues.Select(static q => q.Name));
        using var user = new DiskUser(disk);
        var id = user.Make(BlockOperation.GetId, 0, 0, 15, 17);
        Assert.Equal(Errno.None, user.Do(id));
        Assert.Equal("AB-1234 56" + new string('\0', 22), System.Text.Encoding.ASCII.GetString(user.Bytes(0, 32)));
        using var second = new RecordingDisk();
        await rig.PlugAsync(new VirtioBlkDevice("other", second, "S2"));
        Assert.Equal(["vda", "vdb"], BlockSubsystem.Of(rig.Fabric).Class.Devices.Select(static d => d.Name));

        string Read(string name) => rig.Base.Read($"/class/block/vda/{name}").TrimEnd('\n');
    }

    [Fact]
    public async Task Requests_reach_the_medium_as_they_were_meant()
    {
        await using var rig = await VirtioRig.StartAsync();
        _medium.Become(_medium.Info with { MaxDiscard = 8192, MaxWriteZeroes = 4096 });
        using var user = new DiskUser(await AddAsync(rig));
        _medium.Asked.Clear();
        Assert.Equal(Errno.None, user.Do(BlockOperation.Flush));
        Assert.Equal(Errno.None, user.Do(BlockOperation.Discard, 1024, 8192 + 512));
        Assert.Equal(Errno.None, user.Do(BlockOperation.WriteZeroes, 4096, 4096, mayUnmap: true));
        Assert.Equal(Errno.None, user.Do(BlockOperation.WriteZeroes, 4096, 512));
        Assert.Equal(["flush", "Discard 1024 8192", "Discard 9216 512", "WriteZeroes 4096 4096 unmap", "WriteZeroes 4096 512"], _medium.Asked);
        _medium.Asked.Clear();
        Assert.Equal(Errno.None, user.Do(BlockOperation.WriteZeroes, 0, 512, isDurable: true));
        var write = user.Make(BlockOperation.Write, 8192, 0, 70_144);
        write.IsDurable = true;
        Assert.Equal(Errno.None, user.Do(write));
        // A durable write has its flush when all its pieces are done.
        Assert.Equal(["WriteZeroes 0 512", "flush", "Write 8192 65536", "Write 73728 4608", "flush"], _medium.Asked);
        _medium.Asked.Clear();
        Assert.Equal((Errno.None, Errno.None), (user.Do(BlockOperation.Discard), user.Do(user.Make(BlockOperation.Read, 0, 0))));
        Assert.Empty(_medium.Asked);
    }

    [Fact]
    public async Task Errors_of_the_medium_reach_who_asked()
    {
        await using var rig = await VirtioRig.StartAsync();
        using var user = new DiskUser(await AddAsync(rig));
        _medium.End = r => r.Operation is BlockOperation.Flush || r.Offset == 65536 ? Errno.EIO : null;
        Assert.Equal(Errno.EIO, user.Do(BlockOperation.Flush));
        Assert.Equal(Errno.EIO, user.Write(65536, new byte[512]));
        // One piece of several.
        Assert.Equal(Errno.EIO, user.Do(user.Make(BlockOperation.Read, 0, 0, 200_192)));
        var durable = user.Make(BlockOperation.Write, 0, 0, 512);
        durable.IsDurable = true;
        Assert.Equal(Errno.EIO, user.Do(durable));
        Assert.Equal(Errno.None, user.Write(0, new byte[512]));
        Assert.Equal(512, user.Read(0, 512).Length);
    }

    [Fact]
    public async Task Disk_that_takes_no_writes_says_so_and_gets_none()
    {
        await using var rig = await VirtioRig.StartAsync();
        _medium.Become(_medium.Info with { IsReadOnly = true });
        var disk = await AddAsync(rig);
        using var user = new DiskUser(disk);
        Assert.Equal("1\n", rig.Base.Read("/class/block/vda/ro"));
        Assert.Equal((Errno.EROFS, Errno.EROFS), (user.Write(0, new byte[512]), user.Do(BlockOperation.Discard, 0, 512)));
        Assert.Equal(512, user.Read(0, 512).Length);
        Assert.DoesNotContain(_medium.Asked, static a => a.StartsWith("Write", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Another_size_is_told_and_counts_at_once()
    {
        await using var rig = await VirtioRig.StartAsync();
        var disk = await AddAsync(rig);
        using var user = new DiskUser(disk);
        using var told = new ManualResetEventSlim();
        using var opened = disk.Open("who listens");
        opened.InfoChanged += (_, _) => told.Set();
        _medium.Become(_medium.Info with { Capacity = Capacity / 2 });
        told.WaitHandle.Comes("another size");
        Assert.Equal(("1024\n", Capacity / 2), (rig.Base.Read("/class/block/vda/size"), user.Info.Capacity));
        Assert.Equal(Errno.EIO, user.Write(Capacity / 2, new byte[512]));
        Assert.Equal(Errno.None, user.Write((Capacity / 2) - 512, new byte[512]));
    }

    [Fact]
    public async Task Cache_mode_is_chosen_by_attribute_and_outlives_a_sleep()
    {
        await using var rig = await VirtioRig.StartAsync();
        var disk = await AddAsync(rig);
        using var user = new DiskUser(disk);
        Assert.Equal(("write back\n", "write back\n"), (rig.Base.Read("/class/block/vda/cache_type"), rig.Base.Read("/class/block/vda/queue/write_cache")));
        await rig.Fabric.Tree.WriteAsync(disk.DevPath + "/cache_type", "write through");
        Assert.Equal(("write through\n", "write through\n"), (rig.Base.Read("/class/block/vda/cache_type"), rig.Base.Read("/class/block/vda/queue/write_cache")));
        _medium.Asked.Clear();
        Assert.Equal(Errno.None, user.Write(0, new byte[512]));
        Assert.Equal(Errno.None, user.Do(BlockOperation.Flush));
        // The device makes it durable by itself.
        Assert.Equal(["Write 0 512", "flush"], _medium.Asked);
        await rig.Fabric.SuspendAsync().In();
        await rig.Fabric.ResumeAsync().In();
        Assert.Equal("write through\n", rig.Base.Read("/class/block/vda/cache_type"));
        await Expect.RefusedAsync(Errno.EINVAL, async () => await rig.Fabric.Tree.WriteAsync(disk.DevPath + "/cache_type", "write"));
        await rig.Fabric.Tree.WriteAsync(disk.DevPath + "/cache_type", "write back");
        Assert.True(user.Info.HasWriteCache);
    }

    [Theory]
    [InlineData(1024, false)]
    [InlineData(1024, true)]
    [InlineData(4, false)]
    public async Task Memory_of_the_disk_is_moved_without_a_copy_and_every_other_by_one(int size, bool isPacked)
    {
        await using var rig = await VirtioRig.StartAsync();
        using var user = new DiskUser(await AddAsync(rig, isPacked, size: size));
        using var opened = ((BlockDevice)BlockSubsystem.Of(rig.Fabric).Class.Devices[0]).Open("mapped");
        using var memory = opened.AllocateMemory(256 << 10)!;
        Assert.Equal(256UL << 10, memory.Length);
        var random = new Random(size);
        for (var round = 0; round < 200; round++)
        {
            // Runs of both kinds, of whole blocks and parts of such.
            var runs = GC.AllocateArray<IoVector>(random.Next(1, 7), pinned: true);
            var (shared, own, length) = (0, 0, 0);
            for (var i = 0; i < runs.Length; i++)
            {
                var count = random.Next(2) == 0 ? 512 * random.Next(1, 60) : random.Next(1, 3000);
                var isShared = random.Next(3) > 0;
                runs[i] = isShared ? memory.Take((ulong)shared, count) : new IoVector(user.Address + own, (nuint)count);
                (shared, own, length) = (shared + (isShared ? count : 0), own + (isShared ? 0 : count), length + count);
            }

            // Whole blocks all together.
            var rest = -length & 511;
            runs[^1] = new IoVector(runs[^1].Address, runs[^1].Length + (nuint)rest);
            var content = new byte[length + rest];
            random.NextBytes(content);
            Scatter(content, runs);
            var request = new BlockRequest { Operation = BlockOperation.Write, Offset = 512 * random.Next(100), Length = content.Length };
            request.SetRuns(runs);
            Assert.Equal(Errno.None, user.Do(request));
            using (var inner = new DirectUser(_medium))
                Assert.True(inner.Read(request.Offset, content.Length).AsSpan().SequenceEqual(content), $"round {round}: the medium holds something else");
            Scatter(new byte[content.Length], runs);
            request.Operation = BlockOperation.Read;
            Assert.Equal(Errno.None, user.Do(request));
            Assert.True(Gather(runs).AsSpan().SequenceEqual(content), $"round {round}: something else is read");
        }

        // Whole: one request of the device's, though longer than what is copied at once.
        _medium.Asked.Clear();
        var whole = GC.AllocateArray<IoVector>(1, pinned: true);
        whole[0] = memory.Take(0, 256 << 10);
        var one = new BlockRequest { Operation = BlockOperation.Read, Length = 256 << 10 };
        one.SetRuns(whole);
        Assert.Equal(Errno.None, user.Do(one));
        Assert.Equal(["Read 0 262144"], _medium.Asked);
        Assert.Equal(0, ((PciDevice)rig.Only.Parent!).Dma.Faults);
    }

    [Fact]
    public async Task Run_of_the_disk_s_memory_that_is_longer_than_a_piece_goes_in_pieces()
    {
        using var medium = new RecordingDisk(4 << 20);
        await using var rig = await VirtioRig.StartAsync();
        await rig.PlugAsync(new VirtioFunction(new VirtioBlkDevice("disk", medium, "S1")));
        var disk = Assert.IsType<BlockDevice>(Assert.Single(BlockSubsystem.Of(rig.Fabric).Class.Devices));
        using var user = new DiskUser(disk);
        using var opened = disk.Open("mapped");
        using var memory = opened.AllocateMemory(4 << 20);
        var whole = GC.AllocateArray<IoVector>(1, pinned: true);
        whole[0] = memory!.Take(0, (2 << 20) + 4096);
        var request = new BlockRequest { Operation = BlockOperation.Read, Length = (2 << 20) + 4096 };
        request.SetRuns(whole);
        Assert.Equal(Errno.None, user.Do(request));
        Assert.Equal(["Read 0 1048576", "Read 1048576 1048576", "Read 2097152 4096"], medium.Asked);
    }

    [Fact]
    public async Task Memory_of_a_disk_that_has_gone_is_there_for_its_user()
    {
        await using var rig = await VirtioRig.StartAsync();
        var disk = await AddAsync(rig);
        var pci = (PciDevice)rig.Only.Parent!;
        using var opened = disk.Open("mapped");
        using (var freed = opened.AllocateMemory(1))
            Assert.Equal(4096UL, freed!.Length);
        using var memory = opened.AllocateMemory(8192);
        await rig.Base.Pci.RemoveAsync(pci).In();
        memory!.Take(0, 8192).AsSpan().Fill(1);
        Assert.Null(opened.AllocateMemory(1));
    }

    private static void Scatter(ReadOnlySpan<byte> content, IoVector[] runs)
    {
        foreach (var run in runs)
        {
            content[..(int)run.Length].CopyTo(run.AsSpan());
            content = content[(int)run.Length..];
        }
    }

    private static byte[] Gather(IoVector[] runs)
    {
        var bytes = new List<byte>();
        foreach (var run in runs)
            bytes.AddRange(run.AsSpan());
        return [.. bytes];
    }

    private static void DoAll(DiskUser user, List<BlockRequest> requests)
    {
        var left = requests.Count;
        foreach (var request in requests)
            left -= user.Channel.Submit(request) ? 1 : 0;
        user.Channel.Commit();
        for (; left > 0; left--)
            Assert.Equal(Errno.None, user.Reap().Result);
    }

    private async Task<BlockDevice> AddAsync(VirtioRig rig, bool isPacked = false, bool isLegacy = false, int? vectors = null, int queues = 1, int size = 1024, string serial = "S1")
    {
        var model = new VirtioBlkDevice("disk", _medium, serial, queues, size, packed: isPacked);
        var function = new VirtioFunction(model, new VirtioFunctionOptions { IsTransitional = isLegacy, Vectors = vectors });
        var device = await rig.PlugAsync(isLegacy ? SpoiledFunction.WithoutCapabilities(function) : function);
        return BlockSubsystem.Of(rig.Fabric).Class.Devices.OfType<BlockDevice>().Single(d => d.Parent!.Parent == device);
    }

    /// <summary>Reads the medium past the device.</summary>
    private sealed class DirectUser(RecordingDisk medium) : IDisposable
    {
        private readonly IBlockChannel _channel = medium.OpenChannel(1);

        internal byte[] Read(long offset, int length)
        {
            using var memory = new AlignedBuffer(length, 4096);
            var runs = GC.AllocateArray<IoVector>(1, pinned: true);
            runs[0] = memory.Take(length);
            var request = new BlockRequest { Operation = BlockOperation.Read, Offset = offset, Length = length };
            request.SetRuns(runs);
            Assert.Equal(Errno.None, _channel.Do(request));
            return runs[0].AsSpan().ToArray();
        }

        public void Dispose() => _channel.Dispose();
    }
}
