namespace Virtbus.Virtio;

/// <summary>Byte offsets in struct virtio_pci_common_cfg (VIRTIO 1.2, 4.1.4.3), by the standard's names.</summary>
public static class VirtioCommonConfig
{
    /// <summary>Which 32 bits device_feature shows; 32 bits, read and write.</summary>
    public const int device_feature_select = 0x00;

    /// <summary>Features that the device offers; 32 bits, read.</summary>
    public const int device_feature = 0x04;

    /// <summary>Which 32 bits driver_feature shows; 32 bits, read and write.</summary>
    public const int driver_feature_select = 0x08;

    /// <summary>Features that the driver takes; 32 bits, read and write.</summary>
    public const int driver_feature = 0x0C;

    /// <summary>Vector of configuration changes; 16 bits, read and write.</summary>
    public const int config_msix_vector = 0x10;

    /// <summary>How many queues there are; 16 bits, read.</summary>
    public const int num_queues = 0x12;

    /// <summary>Device status; 8 bits, read and write.</summary>
    public const int device_status = 0x14;

    /// <summary>Number that changes when the configuration space changes; 8 bits, read.</summary>
    public const int config_generation = 0x15;

    /// <summary>Which queue the registers below are of; 16 bits, read and write.</summary>
    public const int queue_select = 0x16;

    /// <summary>Queue size; at first the largest one; 16 bits, read and write.</summary>
    public const int queue_size = 0x18;

    /// <summary>Vector of used buffers; 16 bits, read and write.</summary>
    public const int queue_msix_vector = 0x1A;

    /// <summary>1 for a queue that is enabled; 16 bits, read and write.</summary>
    public const int queue_enable = 0x1C;

    /// <summary>Place of the queue's notification; 16 bits, read.</summary>
    public const int queue_notify_off = 0x1E;

    /// <summary>Address of the descriptor area; 64 bits, read and write.</summary>
    public const int queue_desc = 0x20;

    /// <summary>Address of the driver area; 64 bits, read and write.</summary>
    public const int queue_driver = 0x28;

    /// <summary>Address of the device area; 64 bits, read and write.</summary>
    public const int queue_device = 0x30;

    /// <summary>What a notification carries; 16 bits, read.</summary>
    public const int queue_notify_data = 0x38;

    /// <summary>1 resets the queue; 16 bits, read and write.</summary>
    public const int queue_reset = 0x3A;

    /// <summary>The first administration queue; 16 bits, read.</summary>
    public const int admin_queue_index = 0x3C;

    /// <summary>How many administration queues there are; 16 bits, read.</summary>
    public const int admin_queue_num = 0x3E;

    /// <summary>Size of the structure in bytes.</summary>
    public const int Size = 0x40;

    /// <summary>Size in bytes that drivers before version 1.2 know of, who map no more.</summary>
    public const int ShortSize = 0x38;

    /// <summary>The vector that is none (4.1.5.1.2).</summary>
    public const ushort VIRTIO_MSI_NO_VECTOR = 0xFFFF;
}
