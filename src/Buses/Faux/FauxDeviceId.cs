using Virtbus.Core;

namespace Virtbus.Buses.Faux;

/// <summary>An entry of a faux driver's id table.</summary>
/// <param name="Model">The model that is served.</param>
/// <param name="DriverData">A number of the driver's own choice.</param>
public sealed record FauxDeviceId(string Model, ulong DriverData = 0) : DeviceId(DriverData);
