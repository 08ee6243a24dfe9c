using Virtbus.Buses.Auxiliary;
using Virtbus.Buses.Vdpa;
using Virtbus.Drivers.Nic;

namespace Virtbus.Drivers.NicVdpa;

/// <summary>The one driver of vDPA parts, whatever make of adapter they are cut from: registers a management device on the vdpa bus.</summary>
[AuxiliaryDeviceTable("merlin_core.vdpa", DriverData = 1)]
[AuxiliaryDeviceTable("harrier_core.vdpa", DriverData = 2)]
internal sealed class NicVdpaDriver(AuxiliaryBus bus, string module) : AuxiliaryDriver<NicPart>(bus, module)
{
    protected override ValueTask ProbeAsync(NicPart device, AuxiliaryDeviceId id, CancellationToken cancellationToken)
    {
        var vdpa = device.Fabric!.GetBus<VdpaBus>();
        var management = vdpa.RegisterManagement(device, new NicVdpaOps(device.Require<INicVirtio>()));
        device.Resources.AddAction(() => vdpa.UnregisterManagementAsync(management));
        return default;
    }
}
