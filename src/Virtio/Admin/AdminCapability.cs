namespace Virtbus.Virtio.Admin;

/// <summary>Capabilities of a device that its driver asks for by commands (VIRTIO 1.4, 2.12.1.2).</summary>
public static class AdminCapability
{
    /// <summary>How many objects for parts of members' states there can be, see <see cref="DevicePartsCapability"/>.</summary>
    public const ushort VIRTIO_DEV_PARTS_CAP = 0;

    /// <summary>Before the data of a capability that is asked for or set: the id in 2 bytes, 6 reserved ones.</summary>
    public const int HeaderSize = 8;
}
