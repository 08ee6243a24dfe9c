namespace Virtbus.Virtio.Admin;

/// <summary>Why an administration command failed, for who looks into it (status_qualifier; VIRTIO 1.4, 2.12.1).</summary>
public static class AdminQualifier
{
    /// <summary>It did not fail.</summary>
    public const ushort VIRTIO_ADMIN_STATUS_Q_OK = 0;

    /// <summary>No more is said.</summary>
    public const ushort VIRTIO_ADMIN_STATUS_Q_INVALID_COMMAND = 1;

    /// <summary>There is no such command, or the driver did not say that it uses it.</summary>
    public const ushort VIRTIO_ADMIN_STATUS_Q_INVALID_OPCODE = 2;

    /// <summary>A field of the command's data makes no sense.</summary>
    public const ushort VIRTIO_ADMIN_STATUS_Q_INVALID_FIELD = 3;

    /// <summary>There is no such group.</summary>
    public const ushort VIRTIO_ADMIN_STATUS_Q_INVALID_GROUP = 4;

    /// <summary>The group has no such member.</summary>
    public const ushort VIRTIO_ADMIN_STATUS_Q_INVALID_MEMBER = 5;

    /// <summary>Something inside ran out; it may be tried again.</summary>
    public const ushort VIRTIO_ADMIN_STATUS_Q_NORESOURCE = 6;

    /// <summary>It would have taken too long; it should be tried again.</summary>
    public const ushort VIRTIO_ADMIN_STATUS_Q_TRYAGAIN = 7;
}
