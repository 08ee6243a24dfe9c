using Microsoft.Extensions.Logging;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Vfio;

/// <summary>The VFIO subsystem: drivers register devices that users outside open and drive; transports watch its class and offer them.</summary>
public sealed class VfioSubsystem
{
    private readonly IdAllocator _ids = new();

    private VfioSubsystem(Fabric fabric)
    {
        Log = fabric.LoggerFactory.CreateLogger("Virtbus.Vfio");
        Time = fabric.Time;
    }

    /// <summary>The class of the devices.</summary>
    public Class Class { get; } = new("vfio-dev") { DeviceAttributeGroups = VfioDevice.Groups };

    internal ILogger Log { get; }

    internal TimeProvider Time { get; }

    /// <summary>The VFIO subsystem of a fabric, made at the first call.</summary>
    /// <param name="fabric">The fabric.</param>
    public static VfioSubsystem Of(Fabric fabric)
    {
        ArgumentNullException.ThrowIfNull(fabric);
        return fabric.GetSubsystem(f =>
        {
            var subsystem = new VfioSubsystem(f);
            f.RegisterClass(subsystem.Class);
            return subsystem;
        });
    }

    /// <summary>Registers a device; transports open their sockets for it before this returns.</summary>
    /// <param name="parent">The device that it stands on.</param>
    /// <param name="label">The name that users know.</param>
    /// <param name="ops">The operations.</param>
    /// <exception cref="VirtbusException">A transport can't offer it; nothing is left behind.</exception>
    public async ValueTask<VfioDevice> RegisterAsync(Device parent, string label, IVfioDeviceOps ops)
    {
        ArgumentNullException.ThrowIfNull(parent);
        ArgumentException.ThrowIfNullOrEmpty(label);
        ArgumentNullException.ThrowIfNull(ops);
        var id = _ids.Allocate();
        var device = await parent.Fabric!.RegisterAsync(new VfioDevice(this, $"vfio{id}", label, parent, ops, _ => _ids.Free(id)));
        if (device.EndpointError is not { } error)
            return device;
        // Nobody could open it: a driver that holds it would only keep another one away.
        await parent.Fabric!.UnregisterAsync(device);
        throw new VirtbusException(error.Errno, error.Message, error);
    }

    /// <summary>
    /// Takes a device out. While a user has it open, the user is asked to let go, again and again, and this completes when it has; with the
    /// parent gone by surprise the user's handle is revoked at once, also when that happens while this waits.
    /// </summary>
    /// <param name="device">The device.</param>
    public async ValueTask UnregisterAsync(VfioDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        // Before the device's transition begins, so that a transport that leaves meanwhile does not wait for the user too.
        await device.ReleaseUserAsync();
        await device.Fabric!.UnregisterAsync(device);
    }
}
