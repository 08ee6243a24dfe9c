using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Virtio;

namespace Virtbus.Tests.Buses.Virtio;

/// <summary>The bus keeps the order of the standard, whatever transport and driver do. VB-15.</summary>
public sealed class VirtioBusTests
{
    private const byte Acknowledged = VirtioStatus.ACKNOWLEDGE;
    private const byte Running = Acknowledged | VirtioStatus.DRIVER | VirtioStatus.FEATURES_OK | VirtioStatus.DRIVER_OK;
    private const byte GivenUp = Acknowledged | VirtioStatus.DRIVER | VirtioStatus.FAILED;

    [Fact]
    public async Task Probe_and_remove_stand_in_the_order_of_the_standard()
    {
        await using var rig = await FabricRig.StartAsync();
        var (device, transport) = await AddAsync(rig);
        Assert.Equal((Acknowledged, "virtio0"), (transport.Status, device.Name));
        var driver = new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4))
        {
            OnProbe = d =>
            {
                transport.Calls.Enqueue($"probe {d.Status:x}");
                d.Resources.AddAction(() => Note(transport, "buffers"));
            },
            OnRemove = d => transport.Calls.Enqueue($"remove {d.Status:x}"),
        };
        await rig.Fabric.RegisterDriverAsync(driver).In();
        Assert.Equal(Running, transport.Status);
        // What both have, without what the driver gave up, and what the transport takes.
        Assert.Equal(VirtioFeatures.Of(1, VirtioFeatures.VIRTIO_F_VERSION_1), transport.Settled);
        Assert.Equal(transport.Settled, device.Features);
        await rig.Fabric.UnregisterDriverAsync(driver).In();
        Assert.Equal(
            ["reset", "status 1", "status 3", "features", "probe b", "status f", "remove f", "reset", "delete", "buffers", "status 1"], transport.Calls);
        await rig.Virtio.RemoveAsync(device).In();
        Assert.Empty(rig.Virtio.Devices);
    }

    [Fact]
    public async Task Driver_that_is_ready_in_its_probe_is_not_made_so_again()
    {
        await using var rig = await FabricRig.StartAsync();
        var (_, transport) = await AddAsync(rig);
        await rig.Fabric.RegisterDriverAsync(new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4)) { OnProbe = static d => d.Ready() }).In();
        Assert.Single(transport.Calls, "status f");
    }

    [Fact]
    public async Task Driver_that_fails_leaves_FAILED_and_a_device_that_is_reset_and_the_next_one_may_try()
    {
        await using var rig = await FabricRig.StartAsync();
        var (device, transport) = await AddAsync(rig);
        var driver = new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4))
        {
            OnProbe = d =>
            {
                d.Resources.AddAction(() => Note(transport, "buffers"));
                d.Ready();
                throw new VirtbusException(Errno.EIO, "No.");
            },
        };
        await rig.Fabric.RegisterDriverAsync(driver).In();
        Assert.Null(device.Driver);
        Assert.Equal(GivenUp, transport.Status);
        Assert.Equal(["status f", "reset", "delete", "status 83", "buffers"], transport.Calls.Skip(4));
        driver.OnProbe = null;
        await rig.Fabric.BindAsync(driver, device.Name).In();
        Assert.Equal(Running, transport.Status);
    }

    [Fact]
    public async Task Device_that_refuses_the_features_is_given_up()
    {
        await using var rig = await FabricRig.StartAsync();
        var (device, transport) = await AddAsync(rig);
        transport.FeatureFault = new Fault(Errno.EINVAL, "it does not like them");
        var probes = 0;
        var driver = new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4)) { OnProbe = _ => probes++ };
        await rig.Fabric.RegisterDriverAsync(driver).In();
        Assert.Equal((0, GivenUp), (probes, transport.Status));
        var error = await Expect.RefusedAsync(Errno.EINVAL, () => rig.Fabric.BindAsync(driver, device.Name));
        Assert.EndsWith("Device virtio0: its features can't be settled: it does not like them.", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Device_that_does_not_reset_is_not_put_on_the_bus_and_its_number_is_free_again()
    {
        await using var rig = await FabricRig.StartAsync();
        var parent = await rig.Fabric.RegisterAsync(new Device("card"));
        await Expect.RefusedAsync(Errno.ETIMEDOUT, async () => await rig.Virtio.AddAsync(parent, new FakeTransport { ResetFault = new Fault(Errno.ETIMEDOUT, "it hangs") }));
        Assert.Equal("virtio0", (await rig.Virtio.AddAsync(parent, new FakeTransport())).Name);
        Assert.Equal("virtio1", (await rig.Virtio.AddAsync(parent, new FakeTransport())).Name);
        await rig.Virtio.RemoveAsync((VirtioBusDevice)rig.Virtio.Devices[0]).In();
        Assert.Equal("virtio0", (await rig.Virtio.AddAsync(parent, new FakeTransport())).Name);
    }

    [Fact]
    public async Task Device_that_hangs_when_its_driver_goes_is_told_of_and_let_go()
    {
        await using var rig = await FabricRig.StartAsync();
        var (device, transport) = await AddAsync(rig);
        var driver = new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4));
        await rig.Fabric.RegisterDriverAsync(driver).In();
        transport.ResetFault = new Fault(Errno.ETIMEDOUT, "it hangs");
        await rig.Fabric.UnbindAsync(driver, device.Name).In();
        Assert.Null(device.Driver);
        Assert.Contains("delete", transport.Calls);
        Assert.Equal(1, rig.Log.Count(2302));
    }

    [Theory]
    [InlineData(4u, VirtioMatchId.Any, true)]
    [InlineData(4u, 0x1AF4u, true)]
    [InlineData(VirtioMatchId.Any, 0x1AF4u, true)]
    [InlineData(VirtioMatchId.Any, VirtioMatchId.Any, true)]
    [InlineData(5u, VirtioMatchId.Any, false)]
    [InlineData(4u, 0x1AF5u, false)]
    public async Task Match_is_by_type_and_vendor(uint type, uint vendor, bool isMatch)
    {
        await using var rig = await FabricRig.StartAsync();
        var (device, _) = await AddAsync(rig);
        var driver = new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(99), new VirtioMatchId(type, vendor));
        await rig.Fabric.RegisterDriverAsync(driver).In();
        Assert.Equal(isMatch ? driver : null, device.Driver);
    }

    [Fact]
    public async Task Driver_narrows_its_table_by_what_the_device_offers()
    {
        await using var rig = await FabricRig.StartAsync();
        var (device, _) = await AddAsync(rig);
        await rig.Fabric.RegisterDriverAsync(new FakeDriver(rig.Virtio, "no", new VirtioMatchId(4)) { Wants = static d => d.DeviceFeatures.Has(5) }).In();
        Assert.Null(device.Driver);
        var yes = new FakeDriver(rig.Virtio, "yes", new VirtioMatchId(4)) { Wants = static d => d.DeviceFeatures.Has(2) };
        await rig.Fabric.RegisterDriverAsync(yes).In();
        Assert.Equal(yes, device.Driver);
    }

    [Theory]
    [InlineData(1u, VirtioMatchId.Any, "virtio:d00000001v*")]
    [InlineData(VirtioMatchId.Any, 0xAB12u, "virtio:d*v0000AB12")]
    public void Alias_of_a_table_is_as_in_Linux(uint type, uint vendor, string alias) => Assert.Equal(alias, new VirtioDeviceTableAttribute(type, vendor).Alias);

    [Fact]
    public async Task Change_of_the_configuration_is_told_while_the_driver_is_bound_and_only_then()
    {
        await using var rig = await FabricRig.StartAsync();
        var (device, transport) = await AddAsync(rig);
        var driver = new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4)) { OnProbe = _ => transport.Change() };
        transport.Change();
        await rig.Fabric.RegisterDriverAsync(driver).In();
        await rig.Fabric.SettleAsync().In();
        // What came before the driver could be told is told once.
        Assert.Equal(1, driver.Changes);
        transport.Change();
        await rig.Fabric.SettleAsync().In();
        Assert.Equal(2, driver.Changes);
        await rig.Fabric.UnbindAsync(driver, device.Name).In();
        transport.Change();
        await rig.Fabric.SettleAsync().In();
        Assert.Equal(2, driver.Changes);
    }

    [Fact]
    public async Task Device_that_needs_a_reset_has_its_queues_broken_and_its_driver_told()
    {
        await using var rig = await FabricRig.StartAsync();
        var (device, transport) = await AddAsync(rig);
        Assert.True(transport.Group.TryClaimForDriver("fake", out _));
        var told = 0;
        var driver = new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4)) { OnProbe = d => d.CreateQueues(new VirtioQueueSpec("input", _ => told++, 4)) };
        await rig.Fabric.RegisterDriverAsync(driver).In();
        transport.Status |= VirtioStatus.DEVICE_NEEDS_RESET;
        transport.Change();
        await rig.Fabric.SettleAsync().In();
        Assert.Equal((1, 1, true), (driver.Changes, told, device.Queues[0].IsBroken));
        Assert.Equal(1, rig.Log.Count(2301));
        Assert.Equal(-1, device.Queues[0].Add(default(Virtbus.Virtio.Rings.DriverBuffer)));
        // So is what the transport has for itself.
        Assert.Contains("break EIO", transport.Calls);
    }

    [Fact]
    public async Task Device_that_is_gone_breaks_its_queues_and_nobody_is_told_that_it_broke_them()
    {
        await using var rig = await FabricRig.StartAsync();
        var parent = await rig.Fabric.RegisterAsync(new Device("card"));
        var transport = new FakeTransport();
        await rig.Virtio.AddAsync(parent, transport);
        Assert.True(transport.Group.TryClaimForDriver("fake", out _));
        VirtioQueue? queue = null;
        await rig.Fabric.RegisterDriverAsync(new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4))
        {
            OnProbe = d => queue = d.CreateQueues(new VirtioQueueSpec("input", null, 4))[0],
        }).In();
        await rig.Fabric.SurpriseRemoveAsync(parent).In();
        Assert.True(queue!.IsBroken);
        Assert.Equal(0, rig.Log.Count(2300));
        Assert.Contains("break ENODEV", transport.Calls);
    }

    [Fact]
    public async Task Sleep_freezes_and_restores_with_the_features_as_they_were()
    {
        await using var rig = await FabricRig.StartAsync();
        var (_, transport) = await AddAsync(rig);
        var driver = new FakeDriver(rig.Virtio, "fake", new VirtioMatchId(4));
        await rig.Fabric.RegisterDriverAsync(driver).In();
        var before = transport.Calls.Count;
        await rig.Fabric.SuspendAsync().In();
        Assert.Equal((1, 0, 0), (driver.Frozen, driver.Restored, (int)transport.Status));
        await rig.Fabric.ResumeAsync().In();
        Assert.Equal((1, Running), (driver.Restored, transport.Status));
        Assert.Equal(["reset", "delete", "reset", "status 1", "status 3", "features", "status f"], transport.Calls.Skip(before));
        Assert.Equal(VirtioFeatures.Of(1, VirtioFeatures.VIRTIO_F_VERSION_1), transport.Settled);
    }

    private static ValueTask Note(FakeTransport transport, string what)
    {
        transport.Calls.Enqueue(what);
        return default;
    }

    private static async Task<(VirtioBusDevice Device, FakeTransport Transport)> AddAsync(FabricRig rig)
    {
        var parent = await rig.Fabric.RegisterAsync(new Device("card"));
        var transport = new FakeTransport();
        return (await rig.Virtio.AddAsync(parent, transport), transport);
    }
}
