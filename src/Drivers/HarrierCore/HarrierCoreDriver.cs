using Virtbus.Buses.Pci;
using Virtbus.Drivers.NicRings;

namespace Virtbus.Drivers.HarrierCore;

/// <summary>Binds harrier adapters, physical and virtual functions, and creates their parts.</summary>
[PciDeviceTable(0x5642, 0x2001)]
[PciDeviceTable(0x5642, 0x2002)]
internal sealed class HarrierCoreDriver(PciBus bus, string module) : NicCoreDriver(bus, module)
{
    protected override NicRegisters CreateRegisters(PciDevice device) => new HarrierRegisters(device);
}
