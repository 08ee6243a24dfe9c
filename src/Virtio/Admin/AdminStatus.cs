namespace Virtbus.Virtio.Admin;

/// <summary>What became of an administration command (VIRTIO 1.4, 2.12.1): numbers of Linux' errno.</summary>
public static class AdminStatus
{
    /// <summary>It is done.</summary>
    public const ushort VIRTIO_ADMIN_STATUS_OK = 0;

    /// <summary>There is no such capability or object.</summary>
    public const ushort VIRTIO_ADMIN_STATUS_ENXIO = 6;

    /// <summary>To be tried again; nothing changed.</summary>
    public const ushort VIRTIO_ADMIN_STATUS_EAGAIN = 11;

    /// <summary>Too little memory for it, or for its answer; nothing changed.</summary>
    public const ushort VIRTIO_ADMIN_STATUS_ENOMEM = 12;

    /// <summary>Something depends on what is to change.</summary>
    public const ushort VIRTIO_ADMIN_STATUS_EBUSY = 16;

    /// <summary>An object of that number is there.</summary>
    public const ushort VIRTIO_ADMIN_STATUS_EEXIST = 17;

    /// <summary>It makes no sense; nothing changed.</summary>
    public const ushort VIRTIO_ADMIN_STATUS_EINVAL = 22;

    /// <summary>The device has no more of what is to be created.</summary>
    public const ushort VIRTIO_ADMIN_STATUS_ENOSPC = 28;
}
