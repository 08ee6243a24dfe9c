namespace Virtbus.Daemon.Provisioning;

/// <summary>A socket by which a VMM or a user-space driver opens a device.</summary>
/// <param name="Device">The name by which the manifest knows the device.</param>
/// <param name="Protocol">What is spoken on it, for example <c>vhost-user-blk</c>.</param>
/// <param name="Path">The socket's absolute path.</param>
internal sealed record DeviceSocket(string Device, string Protocol, string Path);
