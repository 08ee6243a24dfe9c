using System.Buffers.Binary;
using Virtbus.Block;
using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Drivers.VirtioBlk;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Models.VirtioBlk;
using Virtbus.Platform;
using Virtbus.Subsystems.Block;
using Virtbus.Virtio;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>A disk whose device answers late, otherwise than most, or not as before: what it has still is nobody else's, and nobody waits without end.</summary>
public sealed class VirtioBlkLateTests : IAsyncLifetime
{
    private const int Queues = 2;
    private FabricRig _rig = null!;
    private FakeTransport _transport = null!;
    private DmaPort _port = null!;
    private Answering _answering = null!;
    private VirtioBusDevice _device = null!;
    private BlockDevice _disk = null!;

    public async ValueTask InitializeAsync()
    {
        _rig = await FabricRig.StartAsync();
        await _rig.InitModuleAsync(new VirtioBlkModule(), "virtio_blk");
        await AddAsync(isLegacy: false);
    }

    private async Task AddAsync(bool isLegacy)
    {
        var config = new byte[96];
        config[0] = 64;
        BinaryPrimitives.WriteInt32LittleEndian(config.AsSpan(12), 16);
        BinaryPrimitives.WriteInt32LittleEndian(config.AsSpan(20), 512);
        config[32] = 1;
        config[34] = Queues;
        _transport = new FakeTransport
        {
            VirtioType = VirtioDeviceId.VIRTIO_ID_BLOCK,
            DeviceFeatures = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1, VirtioBlkConfig.VIRTIO_BLK_F_SEG_MAX, VirtioBlkConfig.VIRTIO_BLK_F_MQ,
                VirtioBlkConfig.VIRTIO_BLK_F_BLK_SIZE, VirtioBlkConfig.VIRTIO_BLK_F_FLUSH, VirtioBlkConfig.VIRTIO_BLK_F_CONFIG_WCE),
            IsLegacy = isLegacy,
            Config = config,
            QueueSize = 32,
            FreesQueues = true,
        };
        _port = new DmaPort("device", _transport.Group) { IsBusMaster = true };
        Assert.True(_transport.Group.TryClaimForDriver("driver", out _));
        var adding = _rig.Virtio.AddAsync(await _rig.Fabric.RegisterAsync(new Device(isLegacy ? "old-card" : "card")), _transport).AsTask();
        _answering = new Answering(_port, isPacked: false, hasTables: false);
        await Deadline.UntilAsync(() => adding.IsCompleted || _answering.TryServe(_transport.Queues, random: null), "the probe");
        _device = await adding.In();
        _disk = _device.Children.OfType<BlockDevice>().SingleOrDefault() ?? throw new InvalidOperationException("There is no disk: " + _rig.Log.Text);
    }

    public ValueTask DisposeAsync() => _rig.DisposeAsync();

    [Fact]
    public async Task Answer_that_comes_too_late_is_written_to_nobody_else_s_memory()
    {
        var before = Maps();
        var user = new DiskUser(_disk);
        Put(user.Channel, user.Make(BlockOperation.Read, 0, 0, 512));
        TimeOut();
        Assert.Equal(Errno.ETIMEDOUT, user.Reap().Result);
        user.Dispose();
        Assert.Equal(before + 1, Maps());
        using (new DiskUser(_disk))
            Assert.Equal(before + 2, Maps());
        Assert.Equal(before + 1, Maps());
        Assert.True(_answering.TryServe(_transport.Queues, random: null));
        Assert.Equal((before + 1, 0L), (Maps(), _port.Faults));
        await _rig.Virtio.RemoveAsync(_device).In();
        Assert.Equal((0, 0L), (Maps(), _port.Faults));
    }

    [Fact]
    public async Task Memory_of_a_user_is_kept_as_long_as_the_device_may_write_to_it()
    {
        using var user = _disk.Open("test");
        var channel = user.OpenChannel(4);
        var before = Maps();
        // Closed in the middle: until the answer.
        var memory = user.AllocateMemory(4096)!;
        Put(channel, Of(memory));
        channel.Dispose();
        memory.Dispose();
        Assert.Equal(before + 1, Maps());
        Assert.True(_answering.TryServe(_transport.Queues, random: null));
        user.OpenChannel(4).Dispose();
        Assert.Equal((before - 1, 0L), (Maps(), _port.Faults));
        // Not answered in time: for good. What is given out later is no part of that.
        channel = user.OpenChannel(4);
        memory = user.AllocateMemory(4096)!;
        Put(channel, Of(memory));
        TimeOut();
        Assert.Equal(Errno.ETIMEDOUT, channel.TryReap()!.Result);
        memory.Dispose();
        user.AllocateMemory(4096)!.Dispose();
        Assert.Equal(before + 1, Maps());
        Assert.True(_answering.TryServe(_transport.Queues, random: null));
        Assert.Equal(0L, _port.Faults);
        channel.Dispose();
        await _rig.Virtio.RemoveAsync(_device).In();
        Assert.Equal((0, 0L), (Maps(), _port.Faults));
    }

    [Fact]
    public async Task Memory_that_was_kept_is_free_after_the_reset_of_a_sleep()
    {
        var before = Maps();
        using var owner = _disk.Open("test");
        var memory = owner.AllocateMemory(4096)!;
        var user = new DiskUser(_disk);
        Put(user.Channel, user.Make(BlockOperation.Read, 0, 0, 512));
        Put(user.Channel, Of(memory));
        TimeOut();
        Assert.Equal(Errno.ETIMEDOUT, user.Reap().Result);
        Assert.Equal(Errno.ETIMEDOUT, user.Reap().Result);
        user.Dispose();
        await _rig.Fabric.SuspendAsync().In();
        await _rig.Fabric.ResumeAsync().In();
        memory.Dispose();
        using (var other = new DiskUser(_disk))
        {
            Assert.Equal(before + 1, Maps());
            _answering = new Answering(_port, isPacked: false, hasTables: false);
            var read = other.Make(BlockOperation.Read, 0, 0, 512);
            Put(other.Channel, read);
            Assert.True(_answering.TryServe(_transport.Queues, random: null));
            Assert.Equal(Errno.None, other.Reap().Result);
        }

        Assert.Equal((before, 0L), (Maps(), _port.Faults));
    }

    [Theory]
    [InlineData(BlockOperation.Read)]
    [InlineData(BlockOperation.Write)]
    public void Length_that_leaves_the_status_out_is_good(BlockOperation operation)
    {
        using var user = new DiskUser(_disk);
        var request = user.Make(operation, 512, 0, 512);
        user.Bytes(0, 512).Fill(Answering.Stale);
        Put(user.Channel, request);
        _answering.CountsStatus = false;
        Assert.True(_answering.TryServe(_transport.Queues, random: null));
        Assert.Same(request, user.Reap());
        Assert.Equal((Errno.None, operation == BlockOperation.Read ? Answering.ByteOf(512) : Answering.Stale), (request.Result, user.Bytes(511, 1)[0]));
    }

    [Theory]
    [InlineData(1, Errno.EIO)]
    [InlineData(2, Errno.EOPNOTSUPP)]
    [InlineData(3, Errno.EIO)]
    [InlineData(255, Errno.EIO)]
    public void Status_is_the_request_s_error(byte status, Errno error)
    {
        using var user = new DiskUser(_disk);
        Put(user.Channel, user.Make(BlockOperation.Write, 0, 0, 512));
        _answering.Status = status;
        Assert.True(_answering.TryServe(_transport.Queues, random: null));
        Assert.Equal(error, user.Reap().Result);
    }

    [Fact]
    public void Answer_that_was_not_told_of_is_no_delay()
    {
        using var user = new DiskUser(_disk);
        Put(user.Channel, user.Make(BlockOperation.Read, 0, 0, 512));
        // Its user waits for the interrupt, which does not come.
        Assert.Null(user.Channel.TryReap());
        _answering.Interrupts = false;
        Assert.True(_answering.TryServe(_transport.Queues, random: null));
        TimeOut();
        Assert.Equal(Errno.None, user.Reap().Result);
    }

    [Fact]
    public void Users_are_spread_over_the_queues()
    {
        using var first = new DiskUser(_disk);
        using var second = new DiskUser(_disk);
        Put(second.Channel, second.Make(BlockOperation.Read, 0, 0, 512));
        _answering = new Answering(_port, isPacked: false, hasTables: false);
        Assert.True(_answering.TryServe([_transport.Queues[1]], random: null));
        Assert.Equal(Errno.None, second.Reap().Result);
    }

    [Fact]
    public async Task Old_device_that_writes_nothing_gives_nothing_of_before()
    {
        await AddAsync(isLegacy: true);
        using var user = new DiskUser(_disk);
        for (var round = 0; round < 2; round++)
        {
            _answering.WritesData = round == 0;
            user.Bytes(0, 512).Fill(Answering.Stale);
            Put(user.Channel, user.Make(BlockOperation.Read, 512, 0, 512));
            Assert.True(_answering.TryServe(_transport.Queues, random: null));
            Assert.Equal(Errno.None, user.Reap().Result);
            Assert.Equal(-1, user.Bytes(0, 512).IndexOfAnyExcept(round == 0 ? Answering.ByteOf(512) : (byte)0));
        }
    }

    [Fact]
    public async Task Cache_mode_that_somebody_chose_is_set_again_after_a_sleep()
    {
        Assert.True(_disk.Info.HasWriteCache);
        await _rig.Fabric.Tree.WriteAsync(_disk.DevPath + "/cache_type", "write through");
        Assert.Equal((0, false), (_transport.Config[32], _disk.Info.HasWriteCache));
        await _rig.Fabric.SuspendAsync().In();
        _transport.Config[32] = 1;
        await _rig.Fabric.ResumeAsync().In();
        Assert.Equal((0, false), (_transport.Config[32], _disk.Info.HasWriteCache));
    }

    [Fact]
    public async Task Disk_whose_blocks_become_others_is_as_before()
    {
        var before = _disk.Info;
        _transport.Config[0] = 128;
        BinaryPrimitives.WriteInt32LittleEndian(_transport.Config.AsSpan(20), 4096);
        _transport.Change();
        await _rig.Fabric.SettleAsync().In();
        Assert.Equal(before, _disk.Info);
        BinaryPrimitives.WriteInt32LittleEndian(_transport.Config.AsSpan(20), 512);
        _transport.Change();
        await _rig.Fabric.SettleAsync().In();
        Assert.Equal(before with { Capacity = 65536 }, _disk.Info);
    }

    [Fact]
    public async Task Request_that_no_longer_fits_after_a_sleep_ends_with_an_error()
    {
        using var user = _disk.Open("test");
        using var channel = user.OpenChannel(4);
        using var memory = user.AllocateMemory(65536)!;
        await _rig.Fabric.SuspendAsync().In();
        var runs = GC.AllocateArray<IoVector>(8, pinned: true);
        for (var i = 0; i < runs.Length; i++)
            runs[i] = memory.Take((ulong)i * 8192, 512);
        var request = new BlockRequest(runs) { Operation = BlockOperation.Write, Offset = 0, Length = 4096 };
        request.SetRuns(runs);
        Put(channel, request);
        _transport.QueueSize = 4;
        await _rig.Fabric.ResumeAsync().In();
        await Deadline.UntilAsync(() => channel.TryReap() == request, "its end");
        Assert.Equal(Errno.EIO, request.Result);
        Assert.Equal((4, false), (_device.Queues[0].Size, _device.Queues[0].IsBroken));
    }

    [Fact]
    public void Queue_that_is_broken_gets_no_new_users_while_there_is_another()
    {
        _device.Queues[0].Break(new Fault(Errno.EIO, "for a test"));
        _answering = new Answering(_port, isPacked: false, hasTables: false);
        var users = Enumerable.Range(0, 4).Select(_ => new DiskUser(_disk)).ToList();
        Assert.All(users, user =>
        {
            Put(user.Channel, user.Make(BlockOperation.Read, 0, 0, 512));
            Assert.True(_answering.TryServe([_transport.Queues[1]], random: null));
            Assert.Equal(Errno.None, user.Reap().Result);
        });
        users.ForEach(static user => user.Dispose());
    }

    [Fact]
    public async Task Who_opens_a_disk_in_the_moment_of_its_end_leaves_nothing_behind()
    {
        var backend = _disk.Backend;
        await _rig.Virtio.RemoveAsync(_device).In();
        Expect.Refused(Errno.ENODEV, () => backend.OpenChannel(4));
        // The clock of the probe's wait may be just about to end.
        await Deadline.UntilAsync(() => _rig.Time.Timers == 0, "the end of its clocks");
        Assert.Equal(0, Maps());
    }

    private static void Put(IBlockChannel channel, BlockRequest request)
    {
        Assert.False(channel.Submit(request));
        channel.Commit();
    }

    private static BlockRequest Of(BlockMemory memory)
    {
        var runs = GC.AllocateArray<IoVector>(1, pinned: true);
        runs[0] = memory.Take(0, 4096);
        var request = new BlockRequest(runs) { Operation = BlockOperation.Read, Length = 4096 };
        request.SetRuns(runs);
        return request;
    }

    private void TimeOut()
    {
        for (var i = 0; i < 8; i++)
            _rig.Time.Advance(TimeSpan.FromSeconds(5));
    }

    private int Maps()
    {
        using var map = _port.Snapshot();
        return map.Ranges.Length;
    }
}
