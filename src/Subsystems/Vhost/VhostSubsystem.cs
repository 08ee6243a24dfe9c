using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Vhost;

/// <summary>The vhost subsystem: drivers register devices that users outside open; transports watch its class and offer them.</summary>
public sealed class VhostSubsystem
{
    private readonly IdAllocator _ids = new();

    private VhostSubsystem()
    {
    }

    /// <summary>The class of the devices, which the tree does not show: Linux has none, and tools look for them in the vDPA device.</summary>
    public Class Class { get; } = new("vhost-vdpa") { DeviceAttributeGroups = VhostDevice.Groups, IsShown = false };

    /// <summary>The vhost subsystem of a fabric, made at the first call.</summary>
    /// <param name="fabric">The fabric.</param>
    public static VhostSubsystem Of(Fabric fabric)
    {
        ArgumentNullException.ThrowIfNull(fabric);
        return fabric.GetSubsystem(f =>
        {
            var subsystem = new VhostSubsystem();
            f.RegisterClass(subsystem.Class);
            return subsystem;
        });
    }

    /// <summary>Registers a device; transports open their sockets for it before this returns.</summary>
    /// <param name="parent">The vDPA device.</param>
    /// <param name="label">The name that users know.</param>
    /// <param name="ops">The operations.</param>
    /// <exception cref="VirtbusException">A transport can't offer it; nothing is left behind.</exception>
    public async ValueTask<VhostDevice> RegisterAsync(Device parent, string label, IVdpaOps ops)
    {
        ArgumentNullException.ThrowIfNull(parent);
        var id = _ids.Allocate();
        var device = await parent.Fabric!.RegisterAsync(new VhostDevice(this, $"vhost-vdpa-{id}", label, parent, ops, _ => _ids.Free(id)));
        if (device.EndpointError is not { } error)
            return device;
        // Nobody could open it: a driver that holds it would only keep another one away.
        await parent.Fabric!.UnregisterAsync(device);
        throw new VirtbusException(error.Errno, error.Message, error);
    }

    /// <summary>Takes a device out; transports have closed it when this returns.</summary>
    /// <param name="device">The device.</param>
    public ValueTask UnregisterAsync(VhostDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        return device.Fabric!.UnregisterAsync(device);
    }
}
