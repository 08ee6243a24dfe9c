using Virtbus.Buses.Vdpa;
using Virtbus.Subsystems.Vhost;

namespace Virtbus.Drivers.VhostVdpa;

/// <summary>Binds any vDPA device and registers it with the vhost subsystem, whose transports let users outside open it.</summary>
internal sealed class VhostVdpaDriver(VdpaBus bus) : VdpaDriver(bus, "vhost-vdpa")
{
    protected override async ValueTask ProbeAsync(VdpaDevice device, VdpaDeviceId id, CancellationToken cancellationToken)
    {
        var subsystem = VhostSubsystem.Of(device.Fabric!);
        var vhost = await subsystem.RegisterAsync(device, device.Name, device.Ops);
        device.Resources.AddAction(() => subsystem.UnregisterAsync(vhost));
    }
}
