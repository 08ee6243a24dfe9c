using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>
/// The rule of <c>driver_override</c>: a device whose user named a driver is for that driver alone, whatever its table and its own predicate
/// say. It stands here and nowhere else; a bus's match knows nothing of it.
/// </summary>
internal static class OverrideRule
{
    /// <summary>The one driver that a user left the device to; null when any may have it.</summary>
    internal static string? WantedInsteadOf(Device device, Driver driver) =>
        device.DriverOverride is { } wanted && wanted != driver.Name ? wanted : null;

    /// <summary>The entry with which a driver gets a device; null when it does not.</summary>
    internal static DeviceId? Match(Device device, Driver driver) => device.DriverOverride switch
    {
        null => driver.Bus.Match(device, driver) is { } id && driver.Accepts(device) ? id : null,
        var wanted when wanted == driver.Name => driver.Bus.MatchOverride(device, driver),
        _ => null,
    };

    /// <summary>The drivers that may get a device, in registration order. Takes no lock.</summary>
    internal static Driver[] Candidates(Bus bus, Device device)
    {
        if (device.DriverOverride is not { } wanted)
            return bus.Candidates(device);
        return bus.TryGetDriver(wanted, out var driver) ? [driver] : [];
    }

    /// <summary>Sets or clears what the user asked for.</summary>
    /// <exception cref="VirtbusException">EOPNOTSUPP: the bus has no overrides; EINVAL: the name is too long.</exception>
    internal static void Set(Device device, string? driverName)
    {
        Check(device, driverName);
        device.DriverOverride = string.IsNullOrEmpty(driverName) ? null : driverName;
    }

    /// <summary>Refuses what <see cref="Set"/> would refuse.</summary>
    internal static void Check(Device device, string? driverName)
    {
        ThrowIfNone(device);
        if (driverName?.Length > ObjectAttribute.MaxStoreBytes - 2)
            throw new VirtbusException(Errno.EINVAL, $"driver_override of {device.Name}: the name has {driverName.Length} characters, which no driver's name has.");
    }

    private static void ThrowIfNone(Device device)
    {
        if (device.Bus is not { HasDriverOverride: true })
            throw new VirtbusException(Errno.EOPNOTSUPP, $"Device {device.Name} is on {(device.Bus is null ? "no bus" : "bus " + device.Bus.Name)}, which has no driver_override.");
    }
}
