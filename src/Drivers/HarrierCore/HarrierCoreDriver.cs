using Virtbus.Buses.Faux;
using Virtbus.Core;
using Virtbus.Drivers.Nic;
using Virtbus.Hardware.Adapter;

namespace Virtbus.Drivers.HarrierCore;

/// <summary>Binds harrier adapters and creates their parts.</summary>
[FauxDeviceTable(HarrierAdapter.Model)]
internal sealed class HarrierCoreDriver(FauxBus bus, string module) : FauxDriver<HarrierAdapter>(bus, module)
{
    private readonly NicPartIds _ids = new();

    protected override IReadOnlyList<AttributeGroup> DeviceAttributeGroups => NicCore.DeviceAttributeGroups;

    protected override async ValueTask ProbeAsync(FauxDevice<HarrierAdapter> device, FauxDeviceId id, CancellationToken cancellationToken)
    {
        var core = new HarrierCore(device);
        device.SetDriverData<NicCore>(core);
        await core.CreatePartsAsync(Name, _ids);
    }
}
