using Virtbus.Buses.Auxiliary;
using Virtbus.Core;

namespace BenchCounter;

/// <summary>Serves devices <c>bench.counter.N</c>: each has a number while the driver is bound.</summary>
/// <param name="bus">The fabric's virtual bus.</param>
/// <param name="module">The module's name, which is the driver's too.</param>
[AuxiliaryDeviceTable("bench.counter", DriverData = 100)]
internal sealed class CounterDriver(AuxiliaryBus bus, string module) : AuxiliaryDriver<AuxiliaryDevice>(bus, module)
{
    protected override IReadOnlyList<AttributeGroup> DeviceAttributeGroups => Groups;

    protected override ValueTask ProbeAsync(AuxiliaryDevice device, AuxiliaryDeviceId id, CancellationToken cancellationToken)
    {
        // The matched entry says where to begin. The core drops the data at the unbind.
        device.SetDriverData(new Counter { Value = id.DriverData + device.Id });
        return default;
    }

    private static Counter Of(AuxiliaryDevice device) => device.GetDriverData<Counter>() ?? new Counter();

    private static readonly AttributeGroup[] Groups =
    [
        new(new ObjectAttribute<AuxiliaryDevice>(
            "count",
            device => $"{Of(device).Value}",
            (device, value, _) =>
            {
                Of(device).Value = AttributeValue.ParseUnsigned(device.DevPath + "/count", value, 1000);
                return default;
            })),
    ];

    private sealed class Counter
    {
        public ulong Value { get; set; }
    }
}
