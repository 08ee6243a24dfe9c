using Virtbus.Buses.Auxiliary;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Drivers.Nic;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Tests.Drivers.Adapter.Tern;

/// <summary>The core driver of the third make: it has the contract, and nothing of the tool box that the others share.</summary>
[PciDeviceTable(0x5642, TernFunction.DeviceId)]
internal sealed class TernCoreDriver(PciBus bus) : PciDriver(bus, "tern_core")
{
    private readonly IdAllocator _ids = new();

    protected override async ValueTask ProbeAsync(PciDevice device, PciDeviceId id, CancellationToken cancellationToken)
    {
        device.Enable();
        device.Resources.AddAction(() =>
        {
            device.Disable();
            return default;
        });
        if (device.GetRegion(0).Read32(TernFunction.Identity) != TernFunction.Letters)
            throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} is no tern.");
        device.SetMaster(true);
        var core = new TernCore(device, device.AllocateVectors(TernFunction.Ports, TernFunction.Ports, PciInterruptKinds.MsiX));
        device.SetDriverData(core);
        device.Resources.AddAction(() =>
        {
            device.FreeVectors();
            return default;
        });
        var auxiliary = device.Fabric!.GetBus<AuxiliaryBus>();
        for (var port = 0; port < TernFunction.Ports; port++)
        {
            var number = _ids.Allocate();
            var part = new NicPart(auxiliary, Name, NicPartKind.Net, number, port, core) { Release = _ => _ids.Free(number) };
            await device.Fabric.RegisterAsync(part);
            device.Resources.AddAction(() => auxiliary.DestroyAsync(part));
        }
    }
}
