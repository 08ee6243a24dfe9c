using Microsoft.Extensions.Logging;
using Virtbus.Buses.Auxiliary;
using Virtbus.Core;
using Virtbus.Samples;

[assembly: FabricModule("aux_test_driver", typeof(TestDriverModule), Description = "Binds the test part and shows what it was given")]

namespace Virtbus.Samples;

/// <summary>The consumer's module: registers its driver; the loader takes the driver out again.</summary>
public sealed class TestDriverModule : IFabricModule
{
    /// <inheritdoc/>
    public ValueTask InitAsync(ModuleContext context) =>
        context.RegisterDriverAsync(new TestPartDriver(context.Fabric.GetBus<AuxiliaryBus>(), context.Name, context.Log));
}

/// <summary>Serves the test part: logs the payload and the matched entry's data, and shows both as attributes of the device.</summary>
/// <param name="bus">The auxiliary bus.</param>
/// <param name="module">The module's name.</param>
/// <param name="log">The module's log.</param>
[AuxiliaryDeviceTable("aux_test_device.test", DriverData = 42)]
public sealed class TestPartDriver(AuxiliaryBus bus, string module, ILogger log) : AuxiliaryDriver<TestPart>(bus, module)
{
    private static readonly AttributeGroup[] Groups =
    [
        new(
            "test",
            new ObjectAttribute<TestPart>("payload", d => d.Port.Greeting),
            new ObjectAttribute<TestPart>("driver_data", d => $"{d.GetDriverData<AuxiliaryDeviceId>()?.DriverData}")),
    ];

    /// <inheritdoc/>
    protected override IReadOnlyList<AttributeGroup> DeviceAttributeGroups => Groups;

    /// <inheritdoc/>
    protected override ValueTask ProbeAsync(TestPart device, AuxiliaryDeviceId id, CancellationToken cancellationToken)
    {
        log.LogInformation("{Device}: payload '{Payload}', driver data {Data}", device.Name, device.Port.Greeting, id.DriverData);
        device.SetDriverData(id);
        device.Port.Open(Name);
        // Undone in reverse order when the device is unbound, or when what follows fails.
        device.Resources.AddAction(() =>
        {
            device.Port.Close(Name);
            return default;
        });
        return default;
    }
}
