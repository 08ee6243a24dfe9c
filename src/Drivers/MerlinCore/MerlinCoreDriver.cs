using Virtbus.Buses.Pci;
using Virtbus.Drivers.NicRings;

namespace Virtbus.Drivers.MerlinCore;

/// <summary>Binds merlin adapters, physical and virtual functions, and creates their parts.</summary>
[PciDeviceTable(0x5642, 0x1001)]
[PciDeviceTable(0x5642, 0x1002)]
internal sealed class MerlinCoreDriver(PciBus bus, string module) : NicCoreDriver(bus, module)
{
    protected override NicRegisters CreateRegisters(PciDevice device) => new MerlinRegisters(device);
}
