using Virtbus.Block;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Drivers.VirtioBlk;
using Virtbus.Hardware.VirtioPci;
using Virtbus.Memory.Dma;
using Virtbus.Models.VirtioBlk;
using Virtbus.Platform;
using Virtbus.Subsystems.Block;
using Virtbus.Virtio;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>What becomes of requests of a virtio disk when it sleeps, goes, or does not answer; and of users who share its queues.</summary>
public sealed class VirtioBlkLifeTests : IDisposable
{
    private readonly RecordingDisk _medium = new();

    public void Dispose() => _medium.Dispose();

    [Fact]
    public async Task Requests_wait_for_the_end_of_a_sleep_and_are_done_then()
    {
        await using var rig = await VirtioRig.StartAsync();
        using var user = new DiskUser(await AddAsync(rig));
        Assert.Equal(Errno.None, user.Write(4096, [.. Enumerable.Repeat((byte)7, 512)]));
        await rig.Fabric.SuspendAsync().In();
        var read = user.Make(BlockOperation.Read, 4096, 8192, 512);
        Assert.False(user.Channel.Submit(read));
        user.Channel.Commit();
        Assert.Null(user.Channel.TryReap());
        await rig.Fabric.ResumeAsync().In();
        Assert.Same(read, user.Reap());
        Assert.Equal((Errno.None, 7), (read.Result, user.Bytes(8192, 512)[511]));
    }

    [Fact]
    public async Task Traffic_goes_on_through_sleeps_and_nothing_is_lost()
    {
        await using var rig = await VirtioRig.StartAsync();
        using var user = new DiskUser(await AddAsync(rig, queues: 2));
        using var stop = new CancellationTokenSource();
        var rounds = 0;
        var work = Task.Run(
            () =>
            {
                for (byte value = 1; !stop.IsCancellationRequested; value = (byte)(value % 250 + 1))
                {
                    user.Bytes(0, 4096).Fill(value);
                    Assert.Equal(Errno.None, user.Do(user.Make(BlockOperation.Write, value * 4096, 0, 4096)));
                    Assert.Equal(Errno.None, user.Do(user.Make(BlockOperation.Read, value * 4096, 4096, 4096)));
                    Assert.Equal(-1, user.Bytes(4096, 4096).IndexOfAnyExcept(value));
                    Interlocked.Increment(ref rounds);
                }
            },
            TestContext.Current.CancellationToken);
        for (var i = 0; i < 5; i++)
        {
            var before = Volatile.Read(ref rounds);
            await Deadline.UntilAsync(() => work.IsCompleted || Volatile.Read(ref rounds) > before + 20, "requests");
            await rig.Fabric.SuspendAsync().In();
            await rig.Fabric.ResumeAsync().In();
        }

        await stop.CancelAsync();
        await work.In();
    }

    [Fact]
    public async Task Unbind_ends_requests_and_a_bind_goes_on()
    {
        await using var rig = await VirtioRig.StartAsync();
        await AddAsync(rig);
        var virtio = rig.Only;
        var pci = (PciDevice)virtio.Parent!;
        Assert.True(rig.Base.Virtio.TryGetDriver("virtio_blk", out var driver));
        for (var round = 0; round < 3; round++)
        {
            using var user = new DiskUser((BlockDevice)BlockSubsystem.Of(rig.Fabric).Class.Devices[0]);
            _medium.Hold();
            var read = user.Make(BlockOperation.Read, 0, 0, 512);
            Assert.False(user.Channel.Submit(read));
            user.Channel.Commit();
            await Deadline.UntilAsync(() => _medium.Held == 1, "the request at the medium");
            var unbind = rig.Fabric.UnbindAsync(driver, virtio.Name).AsTask();
            if (round == 0)
                _medium.Release();
            Assert.Same(read, user.Reap());
            Assert.Equal(round == 0 ? Errno.None : Errno.ENODEV, read.Result);
            _medium.Release();
            await unbind.In();
            Assert.Equal(Errno.ENODEV, user.Do(BlockOperation.Flush));
            using (var map = pci.Dma.Snapshot())
                Assert.Equal((0, 0L), (map.Ranges.Length, pci.Dma.Faults));
            Assert.Empty(BlockSubsystem.Of(rig.Fabric).Class.Devices);
            Assert.DoesNotContain("broke", rig.Base.Log.Text, StringComparison.Ordinal);
            await rig.Fabric.BindAsync(driver, virtio.Name).In();
        }

        using var last = new DiskUser((BlockDevice)BlockSubsystem.Of(rig.Fabric).Class.Devices[0]);
        Assert.Equal(Errno.None, last.Write(0, new byte[4096]));
    }

    [Fact]
    public async Task Pulled_in_the_middle_of_traffic_each_request_ends_and_the_disk_is_gone()
    {
        await using var rig = await VirtioRig.StartAsync();
        var disk = await AddAsync(rig);
        using var user = new DiskUser(disk);
        using var gone = new ManualResetEventSlim();
        disk.Gone += (_, _) => gone.Set();
        var errors = 0;
        var done = 0;
        var work = Task.Run(
            () =>
            {
                while (errors < 20)
                {
                    if (user.Do(user.Make(BlockOperation.Read, 0, 0, 4096)) == Errno.None)
                        Interlocked.Increment(ref done);
                    else
                        errors++;
                }
            },
            TestContext.Current.CancellationToken);
        await Deadline.UntilAsync(() => Volatile.Read(ref done) > 50, "requests");
        await rig.Base.Pci.SurpriseRemoveAsync((PciDevice)rig.Only.Parent!).In();
        await work.In();
        gone.WaitHandle.Comes("the disk's end");
        Assert.Empty(BlockSubsystem.Of(rig.Fabric).Class.Devices);
        Assert.DoesNotContain("broke", rig.Base.Log.Text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Request_that_the_device_does_not_answer_ends_with_an_error_in_the_end()
    {
        await using var rig = await VirtioRig.StartAsync();
        using var user = new DiskUser(await AddAsync(rig));
        using var other = new DiskUser((BlockDevice)BlockSubsystem.Of(rig.Fabric).Class.Devices[0]);
        _medium.Hold();
        var read = user.Make(BlockOperation.Read, 0, 0, 512);
        Assert.False(user.Channel.Submit(read));
        user.Channel.Commit();
        await Deadline.UntilAsync(() => _medium.Held == 1, "the request at the medium");
        Assert.Null(user.Channel.TryReap());
        rig.Base.Time.Advance(TimeSpan.FromSeconds(25));
        Assert.Null(user.Channel.TryReap());
        rig.Base.Time.Advance(TimeSpan.FromSeconds(6));
        Assert.Same(read, user.Reap());
        Assert.Equal(Errno.ETIMEDOUT, read.Result);
        Assert.Contains("does not answer a request", rig.Base.Log.Text, StringComparison.Ordinal);
        Assert.Equal(Errno.ETIMEDOUT, other.Do(BlockOperation.Flush));
        _medium.Release();
    }

    [Fact]
    public async Task Requests_that_are_answered_are_never_too_late()
    {
        await using var rig = await VirtioRig.StartAsync();
        using var user = new DiskUser(await AddAsync(rig));
        for (var i = 0; i < 20; i++)
        {
            Assert.Equal(Errno.None, user.Do(user.Make(BlockOperation.Read, 0, 0, 512)));
            rig.Base.Time.Advance(TimeSpan.FromSeconds(25));
        }

        // One that is done, and nobody came to take it.
        var read = user.Make(BlockOperation.Read, 0, 0, 512);
        Assert.False(user.Channel.Submit(read));
        user.Channel.Commit();
        await Deadline.UntilAsync(() => rig.Only.Queues[0].FreeDescriptors == rig.Only.Queues[0].Size, "its end");
        rig.Base.Time.Advance(TimeSpan.FromSeconds(60));
        Assert.Same(read, user.Reap());
        Assert.Equal(Errno.None, read.Result);
    }

    [Fact]
    public async Task Device_that_answers_nothing_has_no_disk()
    {
        await using var rig = await FabricRig.StartAsync();
        await rig.InitModuleAsync(new VirtioBlkModule(), "virtio_blk");
        var transport = new FakeTransport { VirtioType = VirtioDeviceId.VIRTIO_ID_BLOCK, DeviceFeatures = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1), Config = new byte[96], QueueSize = 16 };
        Assert.True(transport.Group.TryClaimForDriver("driver", out _));
        var adding = rig.Virtio.AddAsync(await rig.Fabric.RegisterAsync(new Device("card")), transport).AsTask();
        await Deadline.UntilAsync(() => rig.Time.Timers >= 2, "the wait for an answer");
        rig.Time.Advance(TimeSpan.FromSeconds(6));
        var device = await adding.In();
        Assert.Null(device.Driver);
        Assert.Contains("does not answer a request", rig.Log.Text, StringComparison.Ordinal);
        Assert.Empty(BlockSubsystem.Of(rig.Fabric).Class.Devices);
        Assert.Equal(0, rig.Time.Timers);
    }

    [Fact]
    public async Task Requests_of_a_device_that_does_not_come_back_from_a_sleep_end()
    {
        await using var rig = await FabricRig.StartAsync();
        await rig.InitModuleAsync(new VirtioBlkModule(), "virtio_blk");
        var config = new byte[96];
        config[0] = 64;
        var transport = new FakeTransport { VirtioType = VirtioDeviceId.VIRTIO_ID_BLOCK, DeviceFeatures = VirtioFeatures.Of(VirtioFeatures.VIRTIO_F_VERSION_1), Config = config, QueueSize = 16 };
        var port = new DmaPort("device", transport.Group) { IsBusMaster = true };
        Assert.True(transport.Group.TryClaimForDriver("driver", out _));
        var adding = rig.Virtio.AddAsync(await rig.Fabric.RegisterAsync(new Device("card")), transport).AsTask();
        var answering = new Answering(port, isPacked: false, hasTables: false);
        await Deadline.UntilAsync(() => adding.IsCompleted || answering.TryServe(transport.Queues, random: null), "the probe");
        var device = await adding.In();
        using var user = new DiskUser(device.Children.OfType<BlockDevice>().Single());
        await rig.Fabric.SuspendAsync().In();
        var read = user.Make(BlockOperation.Read, 0, 0, 512);
        Assert.False(user.Channel.Submit(read));
        user.Channel.Commit();
        transport.ResetFault = new Fault(Errno.ETIMEDOUT, "it does not come out of its reset");
        try
        {
            await rig.Fabric.ResumeAsync().In();
        }
        catch (VirtbusException)
        {
            // Told or not: the device is as good as gone.
        }

        rig.Time.Advance(TimeSpan.FromSeconds(6));
        Assert.Same(read, user.Reap());
        Assert.Equal(Errno.EIO, read.Result);
    }

    [Theory]
    [InlineData(4, 1)]
    [InlineData(4, 2)]
    [InlineData(256, 1)]
    public async Task Users_share_queues_and_each_gets_what_it_asked_for(int size, int queues)
    {
        await using var rig = await VirtioRig.StartAsync();
        var disk = await AddAsync(rig, queues, size);
        var users = Enumerable.Range(0, 5).Select(i => Task.Run(
            () =>
            {
                using var user = new DiskUser(disk, depth: 8);
                for (var round = 0; round < 200; round++)
                {
                    var requests = Enumerable.Range(0, 8).Select(r => user.Make(BlockOperation.Write, (i * 64 + r * 8) * 512, r * 4096, 4096)).ToList();
                    for (var r = 0; r < 8; r++)
                        user.Bytes(r * 4096, 4096).Fill((byte)(i + r + round));
                    var left = requests.Count(r => !user.Channel.Submit(r));
                    user.Channel.Commit();
                    for (; left > 0; left--)
                        Assert.Equal(Errno.None, user.Reap().Result);
                    Assert.Equal((byte)(i + 3 + round), user.Read((i * 64 + 24) * 512, 4096)[4095]);
                }
            },
            TestContext.Current.CancellationToken)).ToArray();
        await Task.WhenAll(users).In();
        Assert.Empty(disk.Users);
    }

    [Fact]
    public async Task Memory_of_users_who_leave_in_the_middle_is_kept_for_the_device_and_freed_then()
    {
        await using var rig = await VirtioRig.StartAsync();
        var disk = await AddAsync(rig);
        var pci = (PciDevice)rig.Only.Parent!;
        var before = Maps();
        _medium.Hold();
        var user = new DiskUser(disk);
        Assert.False(user.Channel.Submit(user.Make(BlockOperation.Read, 0, 0, 512)));
        user.Channel.Commit();
        await Deadline.UntilAsync(() => _medium.Held == 1, "the request at the medium");
        user.Dispose();
        Assert.Equal(before + 1, Maps());
        _medium.Release();
        await Deadline.UntilAsync(() => rig.Only.Queues[0].FreeDescriptors == rig.Only.Queues[0].Size, "its end");
        new DiskUser(disk).Dispose();
        Assert.Equal((before, 0L), (Maps(), pci.Dma.Faults));

        int Maps()
        {
            using var map = pci.Dma.Snapshot();
            return map.Ranges.Length;
        }
    }

    private async Task<BlockDevice> AddAsync(VirtioRig rig, int queues = 1, int size = 256)
    {
        var device = await rig.PlugAsync(new VirtioFunction(new VirtioBlkDevice("disk", _medium, "S1", queues, size)));
        return BlockSubsystem.Of(rig.Fabric).Class.Devices.OfType<BlockDevice>().Single(d => d.Parent!.Parent == device);
    }
}
