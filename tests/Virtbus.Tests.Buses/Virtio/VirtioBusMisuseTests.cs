using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Virtio;

namespace Virtbus.Tests.Buses.Virtio;

/// <summary>Drivers that are wrong and devices that are: what the bus promises holds all the same.</summary>
public sealed class VirtioBusMisuseTests
{
    private const byte Running = VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER | VirtioStatus.FEATURES_OK | VirtioStatus.DRIVER_OK;

    [Fact]
    public async Task Change_is_not_told_once_the_driver_was_told_to_let_go()
    {
        await using var rig = await FabricRig.StartAsync();
        var (device, transport) = await AddAsync(rig);
        var driver = new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4));
        driver.OnLettingGo = async () =>
        {
            transport.Change();
            await rig.Fabric.SettleAsync().In();
        };
        await rig.Fabric.RegisterDriverAsync(driver).In();
        await rig.Fabric.UnbindAsync(driver, device.Name).In();
        Assert.Equal(0, driver.Changes);
    }

    [Fact]
    public async Task Driver_that_can_not_freeze_is_told_of_changes_as_before()
    {
        await using var rig = await FabricRig.StartAsync();
        var (device, transport) = await AddAsync(rig);
        var driver = new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4)) { PowerError = new VirtbusException(Errno.EBUSY, "Not now.") };
        await rig.Fabric.RegisterDriverAsync(driver).In();
        await Expect.RefusedAsync(Errno.EBUSY, () => rig.Fabric.SuspendAsync());
        Assert.Equal((Running, 1), (transport.Status, driver.Frozen));
        transport.Change();
        await rig.Fabric.SettleAsync().In();
        Assert.Equal(1, driver.Changes);
        Assert.Equal(driver, device.Driver);
    }

    [Fact]
    public async Task Restore_that_fails_leaves_FAILED_and_one_that_does_not_forgets_it()
    {
        await using var rig = await FabricRig.StartAsync();
        var (device, transport) = await AddAsync(rig);
        var driver = new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4));
        await rig.Fabric.RegisterDriverAsync(driver).In();
        await rig.Fabric.SuspendAsync().In();
        driver.PowerError = new VirtbusException(Errno.EIO, "No.");
        await rig.Fabric.ResumeAsync().In();
        Assert.Equal((driver, VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER | VirtioStatus.FAILED), (device.Driver, (int)transport.Status));
        // Nothing is told of a device that does not run.
        transport.Change();
        await rig.Fabric.SettleAsync().In();
        Assert.Equal(0, driver.Changes);
        driver.PowerError = null;
        await rig.Fabric.SuspendAsync().In();
        await rig.Fabric.ResumeAsync().In();
        Assert.Equal(Running, transport.Status);
        await rig.Fabric.UnbindAsync(driver, device.Name).In();
        Assert.Equal(VirtioStatus.ACKNOWLEDGE, transport.Status);
    }

    [Fact]
    public async Task Device_that_tells_again_and_again_that_it_failed_has_one_line_in_the_log()
    {
        await using var rig = await FabricRig.StartAsync();
        var (device, transport) = await AddAsync(rig);
        var driver = new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4));
        await rig.Fabric.RegisterDriverAsync(driver).In();
        for (var bind = 1; bind <= 2; bind++)
        {
            transport.Status |= VirtioStatus.DEVICE_NEEDS_RESET;
            for (var i = 0; i < 10; i++)
            {
                transport.Change();
                await rig.Fabric.SettleAsync().In();
            }

            Assert.Equal((bind, 10 * bind), (rig.Log.Count(2301), driver.Changes));
            await rig.Fabric.UnbindAsync(driver, device.Name).In();
            await rig.Fabric.BindAsync(driver, device.Name).In();
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Callback_that_throws_keeps_nothing_from_the_other_queues(bool isGone)
    {
        await using var rig = await FabricRig.StartAsync();
        var parent = await rig.Fabric.RegisterAsync(new Device("card"));
        var transport = new FakeTransport();
        await rig.Virtio.AddAsync(parent, transport);
        Assert.True(transport.Group.TryClaimForDriver("fake", out _));
        IReadOnlyList<VirtioQueue> queues = [];
        var calls = 0;
        var driver = new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4))
        {
            OnProbe = d => queues = d.CreateQueues(
                new VirtioQueueSpec("bad", static _ => throw new InvalidOperationException("Mine.")), new VirtioQueueSpec("good", _ => calls++)),
        };
        await rig.Fabric.RegisterDriverAsync(driver).In();
        if (isGone)
        {
            await rig.Fabric.SurpriseRemoveAsync(parent).In();
        }
        else
        {
            transport.Status |= VirtioStatus.DEVICE_NEEDS_RESET;
            transport.Change();
            await rig.Fabric.SettleAsync().In();
        }

        Assert.Equal((true, true, 1, isGone ? 0 : 1), (queues[0].IsBroken, queues[1].IsBroken, calls, driver.Changes));
        Assert.Equal(1, rig.Log.Count(2304));
    }

    [Theory]
    [InlineData(0xFF, Errno.ENODEV, "it is gone")]
    [InlineData(VirtioStatus.DEVICE_NEEDS_RESET, Errno.EIO, "it failed, and needs a reset")]
    public async Task Device_that_dies_in_a_probe_is_not_bound(int status, Errno errno, string words)
    {
        await using var rig = await FabricRig.StartAsync();
        var (device, transport) = await AddAsync(rig);
        var driver = new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4)) { OnProbe = _ => transport.Status |= (byte)status };
        await rig.Fabric.RegisterDriverAsync(driver).In();
        Assert.Null(device.Driver);
        var error = await Expect.RefusedAsync(errno, () => rig.Fabric.BindAsync(driver, device.Name));
        Assert.EndsWith($"Device virtio0: {words}.", error.Message, StringComparison.Ordinal);
        driver.OnProbe = null;
        await rig.Fabric.BindAsync(driver, device.Name).In();
        Assert.Equal(Running, transport.Status);
    }

    [Fact]
    public async Task Features_that_a_driver_makes_up_are_not_settled()
    {
        await using var rig = await FabricRig.StartAsync();
        var (device, transport) = await AddAsync(rig);
        // The device offers 0, and the driver does not serve it.
        var driver = new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4)) { Choice = static features => features.With(0) };
        await rig.Fabric.RegisterDriverAsync(driver).In();
        Assert.Null(device.Driver);
        Assert.DoesNotContain("features", transport.Calls);
        var error = await Expect.RefusedAsync(Errno.EINVAL, () => rig.Fabric.BindAsync(driver, device.Name));
        Assert.Contains("driver fake takes features that not both of them have: 0x1", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Queues_of_a_device_that_is_reset_are_refused()
    {
        await using var rig = await FabricRig.StartAsync();
        var (device, transport) = await AddAsync(rig);
        Assert.True(transport.Group.TryClaimForDriver("fake", out _));
        Exception? error = null;
        var driver = new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4))
        {
            OnRemove = d =>
            {
                d.Reset();
                error = Record.Exception(() => d.CreateQueues(new VirtioQueueSpec("input", null)));
            },
        };
        await rig.Fabric.RegisterDriverAsync(driver).In();
        await rig.Fabric.UnbindAsync(driver, device.Name).In();
        Assert.IsType<InvalidOperationException>(error);
        Assert.DoesNotContain("queues", transport.Calls);
        Assert.Empty(device.Queues);
    }

    [Theory]
    [InlineData(1, null, 256)]
    [InlineData(3, 3, 256)]
    [InlineData(0, null, 0)]
    [InlineData(0, null, -1)]
    public async Task Queues_that_make_no_sense_are_refused_before_the_device_is_asked(int first, int? second, int size)
    {
        await using var rig = await FabricRig.StartAsync();
        var (_, transport) = await AddAsync(rig);
        Assert.True(transport.Group.TryClaimForDriver("fake", out _));
        Exception? error = null;
        var driver = new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4))
        {
            OnProbe = d => error = Record.Exception(
                () => d.CreateQueues(new VirtioQueueSpec("one", null) { Number = first }, new VirtioQueueSpec("two", null, size) { Number = second })),
        };
        await rig.Fabric.RegisterDriverAsync(driver).In();
        Assert.IsAssignableFrom<ArgumentException>(error);
        Assert.DoesNotContain("queues", transport.Calls);
    }

    [Fact]
    public async Task Queue_that_its_device_broke_is_told_of_once()
    {
        await using var rig = await FabricRig.StartAsync();
        var (device, transport) = await AddAsync(rig);
        Assert.True(transport.Group.TryClaimForDriver("fake", out _));
        await rig.Fabric.RegisterDriverAsync(new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4)) { OnProbe = static d => d.CreateQueues(new VirtioQueueSpec("input", null)) }).In();
        device.Queues[0].Break(new Fault(Errno.EPROTO, "it makes no sense"));
        device.Queues[0].Break(new Fault(Errno.EPROTO, "it makes no sense"));
        Assert.Equal(1, rig.Log.Count(2300));
        Assert.Contains("virtio0: its device broke queue 0 (input): it makes no sense.", rig.Log.Text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Queues_that_are_made_when_the_device_is_gone_already_are_broken()
    {
        await using var rig = await FabricRig.StartAsync();
        var parent = await rig.Fabric.RegisterAsync(new Device("card"));
        var transport = new FakeTransport();
        await rig.Virtio.AddAsync(parent, transport);
        Assert.True(transport.Group.TryClaimForDriver("fake", out _));
        Task? pull = null;
        VirtioQueue? queue = null;
        var driver = new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4))
        {
            OnProbe = d =>
            {
                pull = Task.Run(() => rig.Fabric.SurpriseRemoveAsync(parent).AsTask());
                Deadline.Until(() => d.IsGone, "the pull");
                queue = d.CreateQueues(new VirtioQueueSpec("input", null))[0];
                Assert.True(queue.IsBroken);
            },
        };
        await rig.Fabric.RegisterDriverAsync(driver).In();
        await pull!.In();
        await rig.Fabric.SettleAsync().In();
        Assert.NotNull(queue);
        Assert.Empty(rig.Virtio.Devices);
    }

    [Fact]
    public async Task Change_is_not_told_while_the_driver_freezes()
    {
        await using var rig = await FabricRig.StartAsync();
        var (_, transport) = await AddAsync(rig);
        var driver = new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4));
        driver.OnFreeze = async () =>
        {
            transport.Change();
            await rig.Fabric.SettleAsync().In();
        };
        await rig.Fabric.RegisterDriverAsync(driver).In();
        await rig.Fabric.SuspendAsync().In();
        Assert.Equal(0, driver.Changes);
        await rig.Fabric.ResumeAsync().In();
        await rig.Fabric.SettleAsync().In();
        Assert.Equal(1, driver.Changes);
    }

    private static async Task<(VirtioBusDevice Device, FakeTransport Transport)> AddAsync(FabricRig rig)
    {
        var parent = await rig.Fabric.RegisterAsync(new Device("card"));
        var transport = new FakeTransport();
        return (await rig.Virtio.AddAsync(parent, transport), transport);
    }
}
