using Virtbus.Buses.Faux;
using Virtbus.Drivers.Nic;
using Virtbus.Hardware.Adapter;

namespace Virtbus.Drivers.MerlinCore;

/// <summary>Binds merlin adapters and creates their parts.</summary>
[FauxDeviceTable(MerlinAdapter.Model)]
internal sealed class MerlinCoreDriver(FauxBus bus, string module) : NicCoreDriver<MerlinAdapter>(bus, module)
{
    protected override NicCore CreateCore(FauxDevice<MerlinAdapter> device) => new MerlinCore(device);
}
