using System.Diagnostics;
using System.Globalization;
using Virtbus.Block;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Subsystems.Block;

namespace Virtbus.Tests.Subsystems.Block;

/// <summary>Disks of class block: what they show, who has them open, and what becomes of both when they go.</summary>
public sealed class BlockDeviceTests
{
    private readonly HeldBackend _backend = new();

    [Fact]
    public async Task Disk_shows_itself_with_the_names_and_formats_of_Linux()
    {
        await using var rig = await FabricRig.StartAsync();
        var disk = await AddAsync(rig, new BlockDeviceOptions { Requests = 64, HasForcedWrites = true });
        Assert.Equal("/devices/virtual/block/vda", disk.DevPath);
        Assert.Equal(
            "2048 0 0 align 512 0 0 logical 512 physical 4096 min 4096 opt 65536 kb 128 128 nr 64 discard 4096 524288 zeroes 262144 cache write back rotational 0 fua 1",
            $"{Read("size")} {Read("ro")} {Read("removable")} align {Read("alignment_offset")} {Read("discard_alignment")} {Read("hidden")} logical {Queue("logical_block_size")} physical {Queue("physical_block_size")} min {Queue("minimum_io_size")} " +
            $"opt {Queue("optimal_io_size")} kb {Queue("max_sectors_kb")} {Queue("max_hw_sectors_kb")} nr {Queue("nr_requests")} discard {Queue("discard_granularity")} {Queue("discard_max_bytes")} " +
            $"zeroes {Queue("write_zeroes_max_bytes")} cache {Queue("write_cache")} rotational {Queue("rotational")} fua {Queue("fua")}");
        _backend.Become(_backend.Info with { IsReadOnly = true, HasWriteCache = false, MaxDiscard = 0, IsRotational = true, MaxTransfer = 0 });
        Assert.Equal("1 0 write through 1 0 2097151", $"{Read("ro")} {Queue("discard_granularity")} {Queue("write_cache")} {Queue("rotational")} {Queue("fua")} {Queue("max_sectors_kb")}");
        Assert.Equal($"{disk.DiskSequence}", Read("diskseq"));

        string Read(string name) => rig.Read($"/class/block/vda/{name}").TrimEnd('\n');

        string Queue(string name) => Read("queue/" + name);
    }

    [Fact]
    public async Task Events_name_the_disk_and_tell_of_another_size()
    {
        await using var rig = await FabricRig.StartAsync();
        var disk = await AddAsync(rig);
        var added = rig.Fabric.Uevents.History(0).Single(e => e.DevPath == disk.DevPath);
        Assert.Equal("add", added.ActionName);
        Assert.Equal(("vda", "disk", $"{disk.DiskSequence}", null), (Of(added, "DEVNAME"), Of(added, "DEVTYPE"), Of(added, "DISKSEQ"), Of(added, "RESIZE")));
        var told = 0;
        using var user = disk.Open("test");
        user.InfoChanged += (_, _) => told++;
        _backend.Become(_backend.Info with { Capacity = 2 << 20 });
        var change = rig.Fabric.Uevents.History(added.Seqnum).Single(e => e.DevPath == disk.DevPath);
        Assert.Equal(("change", "1"), (change.ActionName, Of(change, "RESIZE")));
        Assert.Equal("4096\n", rig.Read("/class/block/vda/size"));
        Assert.Equal((1, 2L << 20), (told, user.Info.Capacity));
        _backend.Become(_backend.Info with { IsReadOnly = true });
        var last = rig.Fabric.Uevents.History(change.Seqnum).Single(e => e.DevPath == disk.DevPath);
        Assert.Equal((null, "1"), (Of(last, "RESIZE"), Of(last, "DISK_RO")));
        // What it is about is neither.
        _backend.Become(_backend.Info with { OptimalIoSize = 4096 });
        Assert.DoesNotContain(rig.Fabric.Uevents.History(last.Seqnum), e => e.DevPath == disk.DevPath);

        static string? Of(Uevent e, string key) => e.Variables.Where(v => v.Key == key).Select(v => v.Value).SingleOrDefault();
    }

    [Fact]
    public async Task Of_two_changes_at_the_same_time_the_last_one_stays()
    {
        await using var rig = await FabricRig.StartAsync();
        var disk = await AddAsync(rig);
        var (first, second) = (_backend.Info with { Capacity = 2 << 20 }, _backend.Info with { Capacity = 3 << 20 });
        Thread? other = null;
        _backend.InfoAsked = () =>
        {
            if (other is not null)
                return;
            other = new Thread(() => _backend.Become(second)) { IsBackground = true };
            other.Start();
            // Until it has been told of, or stands behind this one.
            Deadline.Until(() => !other.IsAlive || other.ThreadState.HasFlag(System.Threading.ThreadState.WaitSleepJoin), "the other change");
        };
        _backend.Become(first);
        other!.Ends("the other change");
        Assert.Equal(second, disk.Info);
    }

    [Fact]
    public async Task What_does_not_read_is_a_write_in_flight()
    {
        await using var rig = await FabricRig.StartAsync();
        using var user = (await AddAsync(rig)).Open("test");
        using var channel = user.OpenChannel(8);
        _backend.HoldsAll = true;
        foreach (var operation in new[] { BlockOperation.Read, BlockOperation.Write, BlockOperation.WriteZeroes, BlockOperation.Discard, BlockOperation.Flush })
            Assert.False(channel.Submit(new BlockRequest { Operation = operation, Length = operation == BlockOperation.Flush ? 0 : 512 }));
        Assert.Equal("       1        4\n", rig.Read("/class/block/vda/inflight"));
    }

    [Fact]
    public async Task Names_follow_each_other_as_in_Linux()
    {
        await using var rig = await FabricRig.StartAsync();
        var subsystem = BlockSubsystem.Of(rig.Fabric);
        List<string> names = [];
        for (var i = 0; i < 29; i++)
            names.Add((await subsystem.RegisterAsync(null, subsystem.NextName("vd"), _backend)).Name);
        Assert.Equal(["vda", "vdb", "vdz", "vdaa", "vdab", "vdac"], [names[0], names[1], names[25], names[26], names[27], names[28]]);
        await subsystem.UnregisterAsync((BlockDevice)subsystem.Class.Devices[1]);
        Assert.Equal("vdb", subsystem.NextName("vd"));
        Assert.Equal(Errno.EEXIST, (await Expect.RefusedAsync(Errno.EEXIST, async () => await subsystem.RegisterAsync(null, "vda", _backend))).Errno);
        await Expect.RefusedAsync(Errno.EINVAL, async () => await subsystem.RegisterAsync(null, new string('x', 128), _backend));
    }

    [Fact]
    public async Task Users_share_a_disk_or_have_it_alone()
    {
        await using var rig = await FabricRig.StartAsync();
        var disk = await AddAsync(rig);
        var first = disk.Open("first");
        var second = disk.Open("second");
        Assert.Equal("first shared\nsecond shared\n", rig.Read("/class/block/vda/users"));
        Assert.Contains("open by first", Expect.Refused(Errno.EBUSY, () => disk.Open("third", BlockUse.Exclusive)).Message, StringComparison.Ordinal);
        first.Dispose();
        Expect.Refused(Errno.EBUSY, () => disk.Open("third", BlockUse.Exclusive));
        second.Dispose();
        using (disk.Open("third", BlockUse.Exclusive))
        {
            Assert.Equal("third exclusive\n", rig.Read("/class/block/vda/users"));
            Assert.Contains("open by third", Expect.Refused(Errno.EBUSY, () => disk.Open("fourth")).Message, StringComparison.Ordinal);
        }

        disk.Open("fourth").Dispose();
    }

    [Fact]
    public async Task Statistics_count_each_kind_and_stay_when_their_channel_is_closed()
    {
        await using var rig = await FabricRig.StartAsync();
        var disk = await AddAsync(rig);
        using var user = disk.Open("test");
        using (var channel = user.OpenChannel(8))
        {
            Assert.Equal(Errno.None, channel.Do(new BlockRequest { Operation = BlockOperation.Write, Length = 4096 }));
            Assert.Equal(Errno.None, channel.Do(new BlockRequest { Operation = BlockOperation.WriteZeroes, Length = 1024 }));
            Assert.Equal(Errno.None, channel.Do(new BlockRequest { Operation = BlockOperation.Discard, Length = 8192 }));
            Assert.Equal(Errno.None, channel.Do(new BlockRequest { Operation = BlockOperation.Flush }));
            var first = new BlockRequest { Operation = BlockOperation.Read, Length = 512 };
            var second = new BlockRequest { Operation = BlockOperation.Read, Length = 1024 };
            Assert.False(channel.Submit(first));
            Assert.False(channel.Submit(second));
            Assert.Equal("       2        0\n", rig.Read("/class/block/vda/inflight"));
            Assert.Equal([0, 0, 0, 2, 0, 10, 2, 1, 0, 16, 1], Stat(rig));
            _backend.Release();
            Assert.Same(first, channel.TryReap());
            Assert.Same(second, channel.TryReap());
            Assert.Null(channel.TryReap());
        }

        Assert.Equal("       0        0\n", rig.Read("/class/block/vda/inflight"));
        Assert.Equal([2, 0, 3, 2, 0, 10, 0, 1, 0, 16, 1], Stat(rig));
        var text = rig.Read("/class/block/vda/stat");
        Assert.Equal(17, text.Split(' ', StringSplitOptions.RemoveEmptyEntries).Length);
        Assert.StartsWith("       2        0        3 ", text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Time_without_requests_is_not_busy()
    {
        var start = Stopwatch.GetTimestamp();
        await using var rig = await FabricRig.StartAsync();
        using var user = (await AddAsync(rig)).Open("test");
        using var channel = user.OpenChannel(8);
        Assert.Equal(Errno.None, channel.Do(new BlockRequest { Operation = BlockOperation.Write, Length = 4096 }));
        var busy = long.Parse(rig.Read("/class/block/vda/stat").Split(' ', StringSplitOptions.RemoveEmptyEntries)[9], CultureInfo.InvariantCulture);
        // One millisecond is counted for its begin.
        Assert.InRange(busy, 1, (long)Stopwatch.GetElapsedTime(start).TotalMilliseconds + 2);
    }

    [Fact]
    public async Task Request_through_a_disk_allocates_nothing()
    {
        await using var rig = await FabricRig.StartAsync();
        var disk = await AddAsync(rig);
        using var user = disk.Open("test");
        using var channel = user.OpenChannel(8);
        var request = new BlockRequest { Operation = BlockOperation.Write, Length = 4096 };
        channel.Do(request);
        var before = GC.GetAllocatedBytesForCurrentThread();
        for (var i = 0; i < 1000; i++)
            channel.Do(request);
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
    }

    [Fact]
    public async Task More_requests_than_the_depth_are_refused()
    {
        await using var rig = await FabricRig.StartAsync();
        using var user = (await AddAsync(rig)).Open("test");
        using var channel = user.OpenChannel(2);
        Assert.False(channel.Submit(new BlockRequest { Operation = BlockOperation.Read, Length = 512 }));
        Assert.False(channel.Submit(new BlockRequest { Operation = BlockOperation.Read, Length = 512 }));
        var third = new BlockRequest { Operation = BlockOperation.Read, Length = 512 };
        Assert.True(channel.Submit(third));
        Assert.Equal(Errno.EBUSY, third.Result);
    }

    [Fact]
    public async Task Removal_lets_what_is_in_work_end_and_refuses_what_comes_then()
    {
        await using var rig = await FabricRig.StartAsync();
        var disk = await AddAsync(rig);
        using var user = disk.Open("test");
        var idle = user.OpenChannel(4);
        var channel = user.OpenChannel(4);
        var request = new BlockRequest { Operation = BlockOperation.Read, Length = 512 };
        Assert.False(channel.Submit(request));
        var gone = new TaskCompletionSource();
        disk.Gone += (_, _) => gone.SetResult();
        var removal = BlockSubsystem.Of(rig.Fabric).UnregisterAsync(disk).AsTask();
        await gone.Task.In();
        var late = new BlockRequest { Operation = BlockOperation.Write, Length = 512 };
        Assert.True(channel.Submit(late));
        Assert.Equal(Errno.ENODEV, late.Result);
        Assert.True(idle.Submit(late));
        Assert.Equal(Errno.ENODEV, late.Result);
        _backend.Release();
        Assert.Same(request, channel.TryReap());
        Assert.Equal(Errno.None, request.Result);
        await removal.In();
        Assert.Equal(0, _backend.Open);
        Assert.Empty(BlockSubsystem.Of(rig.Fabric).Class.Devices);
        Expect.Refused(Errno.ENODEV, () => user.OpenChannel(4));
        Expect.Refused(Errno.ENODEV, () => disk.Open("other"));
        Assert.Null(channel.TryReap());
        Assert.Equal(1 << 20, user.Info.Capacity);
        Assert.False(user.FindExtent(0, 512).IsHole);
        channel.Dispose();
        idle.Dispose();
    }

    [Fact]
    public async Task Removal_does_not_wait_for_a_driver_that_ends_nothing_and_the_user_has_its_requests_back()
    {
        await using var rig = await FabricRig.StartAsync();
        var disk = await AddAsync(rig);
        using var user = disk.Open("test");
        using var channel = user.OpenChannel(4);
        var requests = Enumerable.Range(0, 3).Select(_ => new BlockRequest { Operation = BlockOperation.Read, Length = 512 }).ToArray();
        foreach (var request in requests)
            Assert.False(channel.Submit(request));
        Assert.Null(channel.TryReap());
        var completion = channel.Completion!;
        var removal = BlockSubsystem.Of(rig.Fabric).UnregisterAsync(disk).AsTask();
        // As a poll thread does: it looks when it is told.
        Assert.True(await Task.Run(() => Polling.Wait(completion, forWriting: false, cancel: null, Deadline.Milliseconds)));
        HashSet<BlockRequest> back = [];
        while (channel.TryReap() is { } request)
        {
            Assert.Equal(Errno.ENODEV, request.Result);
            Assert.True(back.Add(request));
        }

        Assert.Equal(3, back.Count);
        Assert.Equal(0, _backend.Open);
        await removal.In();
    }

    [Fact]
    public async Task Removal_does_not_wait_for_a_user_that_never_looks()
    {
        await using var rig = await FabricRig.StartAsync();
        var disk = await AddAsync(rig);
        using var user = disk.Open("test");
        using var channel = user.OpenChannel(4);
        var request = new BlockRequest { Operation = BlockOperation.Read, Length = 512 };
        Assert.False(channel.Submit(request));
        await BlockSubsystem.Of(rig.Fabric).UnregisterAsync(disk).In();
        Assert.Same(request, channel.TryReap());
        Assert.Equal(Errno.ENODEV, request.Result);
        Assert.Equal(0, _backend.Open);
    }

    [Fact]
    public async Task Disk_below_a_device_goes_with_it()
    {
        await using var rig = await FabricRig.StartAsync();
        var parent = await rig.Fabric.RegisterAsync(new Device("card"));
        var disk = await BlockSubsystem.Of(rig.Fabric).RegisterAsync(parent, "vda", _backend);
        Assert.Equal("/devices/card/block/vda", disk.DevPath);
        var gone = false;
        disk.Gone += (_, _) => gone = true;
        await rig.Fabric.DeleteAsync(parent).In();
        Assert.True(gone);
        Expect.Refused(Errno.ENODEV, () => disk.Open("late"));
    }

    private ValueTask<BlockDevice> AddAsync(FabricRig rig, BlockDeviceOptions? options = null) =>
        BlockSubsystem.Of(rig.Fabric).RegisterAsync(null, "vda", _backend, options);

    // Without the times: reads, merged and sectors, the same of writes, in flight, of discards, and flushes.
    private static int[] Stat(FabricRig rig)
    {
        var fields = rig.Read("/class/block/vda/stat").Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(int.Parse).ToArray();
        return [fields[0], fields[1], fields[2], fields[4], fields[5], fields[6], fields[8], fields[11], fields[12], fields[13], fields[15]];
    }
}
