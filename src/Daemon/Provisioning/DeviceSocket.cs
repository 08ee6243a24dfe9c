namespace Virtbus.Daemon.Provisioning;

/// <summary>A socket by which a VMM or a user-space driver opens a device, or a person its console.</summary>
/// <param name="Device">The name by which the manifest knows the device.</param>
/// <param name="Protocol">What is spoken on it: <c>vhost-user-blk</c>, <c>vfio-user</c> or <c>console</c>.</param>
/// <param name="Path">The socket's absolute path.</param>
/// <param name="IsConnected">True while someone has the device open.</param>
/// <param name="Address">The device's PCI address, when it has one.</param>
internal sealed record DeviceSocket(string Device, string Protocol, string Path, bool IsConnected, string? Address = null);
