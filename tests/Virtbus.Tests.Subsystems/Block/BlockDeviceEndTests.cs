using System.Runtime.CompilerServices;
using Virtbus.Block;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Subsystems.Block;

namespace Virtbus.Tests.Subsystems.Block;

/// <summary>Disks that become others or go while they are used, and drivers and listeners that do not keep to the rules.</summary>
public sealed class BlockDeviceEndTests
{
    private readonly HeldBackend _backend = new();

    [Fact]
    public async Task Request_that_goes_by_what_the_disk_was_does_not_reach_the_driver()
    {
        await using var rig = await FabricRig.StartAsync();
        var disk = await BlockSubsystem.Of(rig.Fabric).RegisterAsync(null, "vda", _backend);
        using var user = disk.Open("test");
        using var channel = user.OpenChannel(4);
        Assert.Equal(Errno.None, Do(BlockOperation.Write, (1 << 20) - 512, 512));
        _backend.Become(_backend.Info with { Capacity = 1 << 19 });
        Assert.Equal(Errno.EIO, Do(BlockOperation.Write, (1 << 20) - 512, 512));
        Assert.Equal(Errno.EIO, Do(BlockOperation.Read, 1 << 19, 512));
        Assert.Equal(Errno.EIO, Do(BlockOperation.Discard, (1 << 19) - 512, 1024));
        Assert.Equal(Errno.EIO, Do(BlockOperation.WriteZeroes, 7, 512));
        Assert.Equal(Errno.EIO, Do(BlockOperation.Write, -512, 512));
        Assert.Equal(Errno.None, Do(BlockOperation.Write, 0, 512));
        _backend.Become(_backend.Info with { IsReadOnly = true });
        Assert.Equal(Errno.EROFS, Do(BlockOperation.Write, 0, 512));
        Assert.Equal(Errno.EROFS, Do(BlockOperation.Discard, 0, 512));
        Assert.Equal(Errno.EROFS, Do(BlockOperation.WriteZeroes, 0, 512));
        Assert.Equal(Errno.None, Do(BlockOperation.Flush, 0, 0));
        // What was refused is not in work.
        await BlockSubsystem.Of(rig.Fabric).UnregisterAsync(disk).In();
        Assert.Equal(0, _backend.Open);
        Assert.Equal(Errno.ENODEV, Do(BlockOperation.Write, 0, 512));

        Errno Do(BlockOperation operation, long offset, long length)
        {
            var request = new BlockRequest { Operation = operation, Offset = offset, Length = length };
            Assert.True(channel.Submit(request));
            return request.Result;
        }
    }

    [Theory]
    [InlineData(4096, 1 << 20, 512, 0, 0)]
    [InlineData(4096, 1 << 20, 0, 512, 0)]
    [InlineData(4096, 1 << 20, 0, 0, 512)]
    [InlineData(4096, 512, 0, 0, 0)]
    [InlineData(512, -512, 0, 0, 0)]
    [InlineData(256, 1 << 20, 0, 0, 0)]
    [InlineData(1000, 1 << 20, 0, 0, 0)]
    public async Task Disk_whose_limits_are_less_than_its_block_is_refused(int block, long capacity, int transfer, long discard, long zeroes)
    {
        await using var rig = await FabricRig.StartAsync();
        _backend.Become(_backend.Info with { BlockSize = block, Capacity = capacity, MaxTransfer = transfer, MaxDiscard = discard, MaxWriteZeroes = zeroes });
        await Expect.RefusedAsync(Errno.EINVAL, async () => await BlockSubsystem.Of(rig.Fabric).RegisterAsync(null, "vda", _backend));
        Assert.Empty(BlockSubsystem.Of(rig.Fabric).Class.Devices);
    }

    [Fact]
    public async Task Everybody_who_takes_a_disk_out_waits_until_it_is_out()
    {
        await using var rig = await FabricRig.StartAsync();
        var disk = await BlockSubsystem.Of(rig.Fabric).RegisterAsync(null, "vda", _backend);
        using var user = disk.Open("test");
        using var channel = user.OpenChannel(4);
        for (var i = 0; i < 3; i++)
            Assert.False(channel.Submit(new BlockRequest { Operation = BlockOperation.Read, Length = 512 }));
        var first = disk.EndAsync();
        var second = disk.EndAsync();
        Assert.False(second.IsCompleted);
        // Others are in work, and none comes to them.
        var late = new BlockRequest { Operation = BlockOperation.Read, Length = 512 };
        Assert.Equal((true, Errno.ENODEV), (channel.Submit(late), late.Result));
        _backend.Release();
        for (var i = 0; i < 3; i++)
            Assert.NotNull(channel.TryReap());
        await second.In();
        Assert.Equal(0, _backend.Open);
        await first.In();
    }

    [Fact]
    public async Task Channels_that_are_closed_are_forgotten()
    {
        await using var rig = await FabricRig.StartAsync();
        var disk = await BlockSubsystem.Of(rig.Fabric).RegisterAsync(null, "vda", _backend);
        using var user = disk.Open("test");
        var closed = Close();
        GC.Collect();
        Assert.False(closed.IsAlive);

        [MethodImpl(MethodImplOptions.NoInlining)]
        WeakReference Close()
        {
            var channel = user.OpenChannel(1);
            channel.Dispose();
            return new WeakReference(channel);
        }
    }

    [Fact]
    public async Task Disk_that_is_gone_stays_as_it_was()
    {
        await using var rig = await FabricRig.StartAsync();
        var disk = await BlockSubsystem.Of(rig.Fabric).RegisterAsync(null, "vda", _backend);
        var before = disk.Info;
        await BlockSubsystem.Of(rig.Fabric).UnregisterAsync(disk).In();
        _backend.Become(before with { Capacity = 0 });
        Assert.Same(before, disk.Info);
    }

    [Fact]
    public async Task Users_whose_requests_do_not_end_are_waited_for_together()
    {
        await using var rig = await FabricRig.StartAsync();
        var disk = await BlockSubsystem.Of(rig.Fabric).RegisterAsync(null, "vda", _backend);
        using var user = disk.Open("test");
        // One behind the other they would take minutes.
        var channels = Enumerable.Range(0, 100).Select(_ => user.OpenChannel(1)).ToList();
        foreach (var channel in channels)
            Assert.False(channel.Submit(new BlockRequest { Operation = BlockOperation.Read, Length = 512 }));
        await BlockSubsystem.Of(rig.Fabric).UnregisterAsync(disk).In();
        // Not closed under a user, who may be in it.
        Assert.Equal(100, _backend.Open);
        Assert.All(channels, static c => Assert.Equal(Errno.ENODEV, c.TryReap()!.Result));
        channels.ForEach(static c => c.Dispose());
        Assert.Equal(0, _backend.Open);
    }

    [Fact]
    public async Task Listener_or_driver_that_throws_keeps_nobody_from_being_told_or_closed()
    {
        await using var rig = await FabricRig.StartAsync();
        var disk = await BlockSubsystem.Of(rig.Fabric).RegisterAsync(null, "vda", _backend);
        using var user = disk.Open("test");
        user.OpenChannel(4);
        user.OpenChannel(4);
        _backend.ThrowsAtClose = true;
        var told = 0;
        disk.Gone += static (_, _) => throw new InvalidOperationException("a listener");
        disk.Gone += (_, _) => told++;
        var failure = await Assert.ThrowsAsync<AggregateException>(async () => await BlockSubsystem.Of(rig.Fabric).UnregisterAsync(disk).In());
        Assert.Equal((1, 0, 3), (told, _backend.Open, failure.InnerExceptions.Count));
        Assert.Empty(BlockSubsystem.Of(rig.Fabric).Class.Devices);
    }

    [Fact]
    public async Task Channel_that_its_user_closes_while_the_disk_goes_is_no_failure()
    {
        await using var rig = await FabricRig.StartAsync();
        var disk = await BlockSubsystem.Of(rig.Fabric).RegisterAsync(null, "vda", _backend);
        using var user = disk.Open("test");
        var channel = user.OpenChannel(4);
        Assert.False(channel.Submit(new BlockRequest { Operation = BlockOperation.Read, Length = 512 }));
        // The driver's signal is gone before the user's request is out of the gate.
        channel.Completion!.Dispose();
        await BlockSubsystem.Of(rig.Fabric).UnregisterAsync(disk).In();
        Assert.NotNull(channel.TryReap());
        Assert.Equal(0, _backend.Open);
        channel.Dispose();
    }

    [Fact]
    public async Task Removal_waits_for_who_asks_the_driver_how_blocks_are_kept()
    {
        await using var rig = await FabricRig.StartAsync();
        var disk = await BlockSubsystem.Of(rig.Fabric).RegisterAsync(null, "vda", _backend);
        using var user = disk.Open("test");
        Assert.True(user.FindExtent(0, 512).IsHole);
        using var inside = new ManualResetEventSlim();
        using var release = new ManualResetEventSlim();
        var isOut = false;
        _backend.Asked = () =>
        {
            inside.Set();
            release.Wait(Deadline.Milliseconds);
            Volatile.Write(ref isOut, true);
        };
        var asking = Task.Run(() => user.FindExtent(0, 512));
        Assert.True(inside.Wait(Deadline.Milliseconds));
        var removal = BlockSubsystem.Of(rig.Fabric).UnregisterAsync(disk).AsTask();
        for (var i = 0; i < 20 && !removal.IsCompleted; i++)
            await Task.Yield();
        Assert.False(removal.IsCompleted);
        release.Set();
        await removal.In();
        Assert.True(Volatile.Read(ref isOut));
        await asking.In();
        Assert.False(user.FindExtent(0, 512).IsHole);
    }
}
