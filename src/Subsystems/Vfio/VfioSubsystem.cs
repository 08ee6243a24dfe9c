using Virtbus.Core;

namespace Virtbus.Subsystems.Vfio;

/// <summary>The VFIO subsystem: drivers register devices that users outside open and drive; transports watch its class and offer them.</summary>
public sealed class VfioSubsystem
{
    private VfioSubsystem()
    {
    }

    /// <summary>The class of the devices.</summary>
    public Class Class { get; } = new("vfio-dev");

    /// <summary>The VFIO subsystem of a fabric, made at the first call.</summary>
    /// <param name="fabric">The fabric.</param>
    public static VfioSubsystem Of(Fabric fabric) => throw new NotSupportedException();

    /// <summary>Registers a device; transports open their sockets for it before this returns.</summary>
    /// <param name="parent">The device that it stands on.</param>
    /// <param name="label">The name that users know.</param>
    /// <param name="ops">The operations.</param>
    public ValueTask<VfioDevice> RegisterAsync(Device parent, string label, IVfioDeviceOps ops) => throw new NotSupportedException();

    /// <summary>
    /// Takes a device out. While a user has it open, the user is asked to let go, again and again, and this completes when it has; with the
    /// parent gone by surprise the user's handle is revoked at once.
    /// </summary>
    /// <param name="device">The device.</param>
    public ValueTask UnregisterAsync(VfioDevice device) => throw new NotSupportedException();
}
