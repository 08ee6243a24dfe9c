using Virtbus.Buses.Faux;
using Virtbus.Drivers.Nic;
using Virtbus.Hardware.Adapter;

namespace Virtbus.Drivers.HarrierCore;

/// <summary>Binds harrier adapters and creates their parts.</summary>
[FauxDeviceTable(HarrierAdapter.Model)]
internal sealed class HarrierCoreDriver(FauxBus bus, string module) : NicCoreDriver<HarrierAdapter>(bus, module)
{
    protected override NicCore CreateCore(FauxDevice<HarrierAdapter> device) => new HarrierCore(device);
}
