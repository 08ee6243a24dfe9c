using Virtbus.Core;

namespace Virtbus.Buses.Auxiliary;

/// <summary>An entry of an auxiliary driver's id table.</summary>
/// <param name="Name">The match name that is served: <c>module.name</c>, compared whole.</param>
/// <param name="DriverData">A number of the driver's own choice.</param>
public sealed record AuxiliaryDeviceId(string Name, ulong DriverData = 0) : DeviceId(DriverData);
