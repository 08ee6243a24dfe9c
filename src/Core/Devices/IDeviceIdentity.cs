namespace Virtbus.Core;

/// <summary>
/// What a bus may look at when it matches: fixed at creation, read-only (DM-05, DM-07). A bus adds its own identity by an interface
/// that extends this one. What a user asked for (<c>driver_override</c>) is no part of it: the core looks at that.
/// </summary>
public interface IDeviceIdentity
{
    /// <summary>The device's name, unique on its bus.</summary>
    string Name { get; }
}
