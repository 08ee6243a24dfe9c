namespace Virtbus.Virtio.Admin;

/// <summary>Group administration commands (VIRTIO 1.4, 2.12.1), by the standard's names. QUERY and MODIFY of objects are numbered as the standard's table of opcodes does.</summary>
public static class AdminOpcode
{
    /// <summary>Which commands there are for a group.</summary>
    public const ushort VIRTIO_ADMIN_CMD_LIST_QUERY = 0x0;

    /// <summary>Which of them the driver uses.</summary>
    public const ushort VIRTIO_ADMIN_CMD_LIST_USE = 0x1;

    /// <summary>Writes a field of a member's legacy header.</summary>
    public const ushort VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_WRITE = 0x2;

    /// <summary>Reads a field of a member's legacy header.</summary>
    public const ushort VIRTIO_ADMIN_CMD_LEGACY_COMMON_CFG_READ = 0x3;

    /// <summary>Writes a member's configuration as a legacy driver does.</summary>
    public const ushort VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_WRITE = 0x4;

    /// <summary>Reads a member's configuration as a legacy driver does.</summary>
    public const ushort VIRTIO_ADMIN_CMD_LEGACY_DEV_CFG_READ = 0x5;

    /// <summary>Where a member takes notifications of a legacy driver.</summary>
    public const ushort VIRTIO_ADMIN_CMD_LEGACY_NOTIFY_INFO = 0x6;

    /// <summary>Which capabilities the device has.</summary>
    public const ushort VIRTIO_ADMIN_CMD_CAP_ID_LIST_QUERY = 0x7;

    /// <summary>Reads a capability.</summary>
    public const ushort VIRTIO_ADMIN_CMD_DEVICE_CAP_GET = 0x8;

    /// <summary>Says what of a capability the driver uses.</summary>
    public const ushort VIRTIO_ADMIN_CMD_DRIVER_CAP_SET = 0x9;

    /// <summary>Creates a resource object.</summary>
    public const ushort VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE = 0xA;

    /// <summary>Reads a resource object.</summary>
    public const ushort VIRTIO_ADMIN_CMD_RESOURCE_OBJ_QUERY = 0xB;

    /// <summary>Changes a resource object.</summary>
    public const ushort VIRTIO_ADMIN_CMD_RESOURCE_OBJ_MODIFY = 0xC;

    /// <summary>Destroys a resource object.</summary>
    public const ushort VIRTIO_ADMIN_CMD_RESOURCE_OBJ_DESTROY = 0xD;

    /// <summary>How large the parts of a member's state are, how many, and which.</summary>
    public const ushort VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET = 0xE;

    /// <summary>Reads parts of a member's state.</summary>
    public const ushort VIRTIO_ADMIN_CMD_DEV_PARTS_GET = 0xF;

    /// <summary>Sets parts of a stopped member's state.</summary>
    public const ushort VIRTIO_ADMIN_CMD_DEV_PARTS_SET = 0x10;

    /// <summary>Stops a member, or has it go on.</summary>
    public const ushort VIRTIO_ADMIN_CMD_DEV_MODE_SET = 0x11;

    /// <summary>How many commands there are.</summary>
    public const int Count = 0x12;
}
