namespace Virtbus.Core;

/// <summary>
/// One entry of a driver's id table. The entry that matched reaches the driver's probe as an argument, with its driver data; nothing is
/// stored into the device by a match (DM-05, DM-06).
/// </summary>
/// <param name="DriverData">A number of the driver's own choice.</param>
public abstract record DeviceId(ulong DriverData);
