using Virtbus.Buses.Faux;
using Virtbus.Core;
using Virtbus.Platform;
using Xunit;

namespace Virtbus.Tests.Core;

/// <summary>A bus for hardware that no real bus carries: DM-29.</summary>
public sealed class FauxBusTests
{
    [FauxDeviceTable("model-1", DriverData = 7)]
    private sealed class ModelDriver(FauxBus bus) : FauxDriver<string>(bus, "model")
    {
        public List<string> Seen { get; } = [];

        protected override ValueTask ProbeAsync(FauxDevice<string> device, FauxDeviceId id, CancellationToken cancellationToken)
        {
            Seen.Add($"{device.Name} {device.Hardware} {id.DriverData}");
            return default;
        }
    }

    private sealed class TableLess(FauxBus bus) : FauxDriver<string>(bus, "none");

    [Fact]
    public async Task Driver_binds_by_model_and_gets_the_hardware()
    {
        var fabric = new Fabric();
        var bus = fabric.RegisterBus(new FauxBus());
        var driver = new ModelDriver(bus);
        await fabric.RegisterDriverAsync(driver);
        var device = await bus.CreateAsync("adapter0", "model-1", "hardware");
        Assert.Equal(["adapter0 hardware 7"], driver.Seen);
        Assert.Equal(("/devices/faux/adapter0", "faux:model-1"), (device.DevPath, device.Modalias));
        Assert.Null((await bus.CreateAsync("adapter1", "model-2", "hardware")).Driver);
        await Deadline.Refused(Errno.EEXIST, async () => await bus.CreateAsync("adapter0", "model-1", "hardware"));
        Deadline.Refused(Errno.EINVAL, () => new TableLess(bus));
    }

    [Fact]
    public async Task Devices_made_at_once_share_one_root_and_a_deleted_root_is_made_again()
    {
        var fabric = new Fabric();
        var bus = fabric.RegisterBus(new FauxBus());
        await Task.WhenAll(Enumerable.Range(0, 64).Select(i => Task.Run(async () => await bus.CreateAsync("a" + i, "m", "hardware")))).In();
        Assert.Equal("faux", Assert.Single(fabric.RootDevices).Name);
        await fabric.DeleteAsync(fabric.RootDevices[0]);
        Assert.Empty(bus.Devices);
        await bus.CreateAsync("again", "m", "hardware");
        Assert.Single(bus.Devices);
    }
}
