namespace Virtbus.Virtio;

/// <summary>
/// Byte offsets in the I/O ports of a transitional PCI function (VIRTIO 1.3, 4.1.4.10), by the names that Linux gives them, and the form of a ring of that
/// time (2.7.2): in one piece at a page number.
/// </summary>
public static class VirtioLegacyConfig
{
    /// <summary>Features that the device offers; 32 bits, read.</summary>
    public const int VIRTIO_PCI_HOST_FEATURES = 0;

    /// <summary>Features that the driver takes; 32 bits, read and write.</summary>
    public const int VIRTIO_PCI_GUEST_FEATURES = 4;

    /// <summary>Page of the selected queue, 0 for none; 32 bits, read and write.</summary>
    public const int VIRTIO_PCI_QUEUE_PFN = 8;

    /// <summary>Size of the selected queue; 16 bits, read.</summary>
    public const int VIRTIO_PCI_QUEUE_NUM = 12;

    /// <summary>Which queue the registers are of; 16 bits, read and write.</summary>
    public const int VIRTIO_PCI_QUEUE_SEL = 14;

    /// <summary>Notification; 16 bits, write.</summary>
    public const int VIRTIO_PCI_QUEUE_NOTIFY = 16;

    /// <summary>Device status; 8 bits, read and write.</summary>
    public const int VIRTIO_PCI_STATUS = 18;

    /// <summary>ISR, cleared by the read; 8 bits, read.</summary>
    public const int VIRTIO_PCI_ISR = 19;

    /// <summary>Vector of configuration changes, while MSI-X is enabled; 16 bits, read and write.</summary>
    public const int VIRTIO_MSI_CONFIG_VECTOR = 20;

    /// <summary>Vector of the selected queue, while MSI-X is enabled; 16 bits, read and write.</summary>
    public const int VIRTIO_MSI_QUEUE_VECTOR = 22;

    /// <summary>Bytes before the device's configuration without MSI-X.</summary>
    public const int HeaderSize = 20;

    /// <summary>Bytes more before it while MSI-X is enabled.</summary>
    public const int VectorBytes = 4;

    /// <summary>Where the device's configuration begins.</summary>
    /// <param name="isMsixEnabled">Whether the function has MSI-X enabled at the moment; it moves when that changes.</param>
    /// <returns>Bytes before it.</returns>
    public static int ConfigOffset(bool isMsixEnabled) => isMsixEnabled ? HeaderSize + VectorBytes : HeaderSize;

    /// <summary>Bits that an address is shifted by to be a page number.</summary>
    public const int VIRTIO_PCI_QUEUE_ADDR_SHIFT = 12;

    /// <summary>The used ring begins at a multiple of this (VIRTIO_PCI_VRING_ALIGN).</summary>
    public const int RingAlignment = 4096;

    /// <summary>Feature bit of that time: buffers may be cut at any place.</summary>
    public const int VIRTIO_F_ANY_LAYOUT = 27;

    /// <summary>The status bits that there were.</summary>
    public const byte KnownStatus = VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER | VirtioStatus.DRIVER_OK | VirtioStatus.FAILED;
}
