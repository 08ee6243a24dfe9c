namespace Virtbus.Core;

/// <summary>
/// What a bus may look at when it matches: fixed at creation, read-only (DM-05, DM-07). A bus adds its own identity by an interface
/// that extends this one.
/// </summary>
public interface IDeviceIdentity
{
    /// <summary>The device's name, unique on its bus.</summary>
    string Name { get; }

    /// <summary>The driver name that the user asked for, or null.</summary>
    string? DriverOverride { get; }
}
