namespace Virtbus.Core;

/// <summary>
/// Told of the devices of a class, as Linux's class interfaces are: a transport opens a socket for each device that its subsystem
/// registers. Errors are logged and leave the device as it is.
/// </summary>
public interface IClassObserver
{
    /// <summary>A device was added, or was there when the observer came.</summary>
    /// <param name="device">The device.</param>
    ValueTask DeviceAddedAsync(Device device);

    /// <summary>A device is about to go; it is still usable.</summary>
    /// <param name="device">The device.</param>
    ValueTask DeviceRemovedAsync(Device device);
}
