using Virtbus.Buses.Pci;

namespace Virtbus.Tests.Guest.Module;

/// <summary>A driver that enables its device and lets it do DMA; what is done with the device then is not its business.</summary>
internal sealed class PlainDriver(PciBus bus) : PciDriver(bus, "plain", new PciDeviceId { Vendor = Edu.Vendor, Device = Edu.Device }, new PciDeviceId { Vendor = TestDevice.Vendor, Device = TestDevice.Device })
{
    protected override ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
    {
        device.Enable();
        device.Resources.AddAction(() =>
        {
            device.SetMaster(false);
            device.Disable();
            return default;
        });
        device.SetMaster(true);
        return default;
    }
}
