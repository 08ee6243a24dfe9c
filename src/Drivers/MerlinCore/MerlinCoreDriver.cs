using Virtbus.Buses.Faux;
using Virtbus.Core;
using Virtbus.Drivers.Nic;
using Virtbus.Hardware.Adapter;

namespace Virtbus.Drivers.MerlinCore;

/// <summary>Binds merlin adapters and creates their parts.</summary>
[FauxDeviceTable(MerlinAdapter.Model)]
internal sealed class MerlinCoreDriver(FauxBus bus, string module) : FauxDriver<MerlinAdapter>(bus, module)
{
    private readonly NicPartIds _ids = new();

    protected override IReadOnlyList<AttributeGroup> DeviceAttributeGroups => NicCore.DeviceAttributeGroups;

    protected override async ValueTask ProbeAsync(FauxDevice<MerlinAdapter> device, FauxDeviceId id, CancellationToken cancellationToken)
    {
        var core = new MerlinCore(device);
        device.SetDriverData<NicCore>(core);
        await core.CreatePartsAsync(Name, _ids);
    }
}
