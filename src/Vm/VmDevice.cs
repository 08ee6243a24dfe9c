namespace Virtbus.Vm;

/// <summary>A device to plug into the guest. Whether a disk is read-only is for its back end to say, not for the VM.</summary>
/// <param name="Name">The device's name, for messages.</param>
/// <param name="Kind">The protocol that the socket speaks.</param>
/// <param name="SocketPath">The socket on which the device's daemon listens.</param>
/// <param name="Queues">Request queues of a vhost-user disk, from 1 to what its daemon offers. Not used for a vfio-user function.</param>
/// <param name="Packed">Whether a vhost-user disk has packed rings, which its daemon has to offer; the guest's driver takes them if it knows them.</param>
public sealed record VmDevice(string Name, VmDeviceKind Kind, string SocketPath, int Queues = 1, bool Packed = false);
