namespace Virtbus.Vm;

/// <summary>The QEMU device through which a guest gets one of our devices.</summary>
public enum VmDeviceKind
{
    /// <summary>A virtio disk over a vhost-user socket (QEMU 7.2 or later).</summary>
    VhostUserBlk,

    /// <summary>A PCI function over a vfio-user socket (QEMU 10.1 or later).</summary>
    VfioUserPci,
}
