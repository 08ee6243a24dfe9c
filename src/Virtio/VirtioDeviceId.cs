namespace Virtbus.Virtio;

/// <summary>Virtio device types (VIRTIO 1.2, 5), by the names that Linux gives them.</summary>
public static class VirtioDeviceId
{
    /// <summary>Network card.</summary>
    public const uint VIRTIO_ID_NET = 1;

    /// <summary>Block device.</summary>
    public const uint VIRTIO_ID_BLOCK = 2;

    /// <summary>Console.</summary>
    public const uint VIRTIO_ID_CONSOLE = 3;

    /// <summary>Entropy source.</summary>
    public const uint VIRTIO_ID_RNG = 4;

    /// <summary>SCSI host.</summary>
    public const uint VIRTIO_ID_SCSI = 8;

    /// <summary>File system.</summary>
    public const uint VIRTIO_ID_FS = 26;
}
