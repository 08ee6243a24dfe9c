using Virtbus.Core;
using Virtbus.Subsystems;

namespace Virtbus.Daemon.Provisioning;

/// <summary>A socket by which a VMM or a user-space driver opens a device, or a person its console.</summary>
/// <param name="Name">The name by which the manifest knows the device.</param>
/// <param name="Protocol">What is spoken on it: <c>vhost-user-blk</c>, <c>vfio-user</c>, <c>console</c> or <c>nbd</c>.</param>
/// <param name="Endpoint">The socket and who is connected to it.</param>
/// <param name="Device">The device that is opened by it.</param>
/// <param name="ClassDevice">The device of a class that stands for it, when one does.</param>
/// <param name="Address">The device's PCI address, when it has one.</param>
internal sealed record DeviceSocket(string Name, string Protocol, IDeviceEndpoint Endpoint, Device? Device, Device? ClassDevice = null, string? Address = null);
