using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Xunit;

namespace Virtbus.Tests.Core;

public sealed class AuxiliaryBusTests
{
    private sealed class TestDriver(AuxiliaryBus bus, string name, params AuxiliaryDeviceId[] ids)
        : AuxiliaryDriver<AuxiliaryDevice<string>>(bus, "test", name, ids)
    {
        public List<string> Log { get; } = [];

        protected override ValueTask ProbeAsync(AuxiliaryDevice<string> device, AuxiliaryDeviceId id, CancellationToken cancellationToken)
        {
            Log.Add($"probe {device.Name} {device.Payload} {id.DriverData}");
            return default;
        }

        protected override ValueTask RemoveAsync(AuxiliaryDevice<string> device)
        {
            Log.Add($"remove {device.Name}");
            return default;
        }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Payload_and_matched_entry_reach_probe_in_either_order(bool driverFirst)
    {
        var fabric = new Fabric();
        var bus = fabric.RegisterBus(new AuxiliaryBus());
        var parent = new Device("parent");
        await fabric.AddAsync(parent);
        var driver = new TestDriver(bus, "d", new AuxiliaryDeviceId("mod.other", 1), new AuxiliaryDeviceId("mod.part", 2));
        if (driverFirst)
            await fabric.RegisterDriverAsync(driver);
        var device = await bus.CreateAsync(parent, "mod", "part", "hello", 7u);
        if (!driverFirst)
            await fabric.RegisterDriverAsync(driver);

        Assert.Equal("mod.part.7", device.Name);
        Assert.Equal(["probe mod.part.7 hello 2"], driver.Log);
        Assert.Same(driver, device.Driver);
        Assert.Equal("auxiliary:mod.part\n", fabric.Tree.Read("/bus/auxiliary/devices/mod.part.7/modalias"));

        await fabric.Tree.WriteAsync("/bus/auxiliary/drivers/test.d/unbind", "mod.part.7");
        Assert.Null(device.Driver);
        await bus.DestroyAsync(device);
        Assert.Equal(DeviceState.Released, device.State);
        Assert.Equal(2, driver.Log.Count);
    }
}
