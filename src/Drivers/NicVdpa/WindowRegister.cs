namespace Virtbus.Drivers.NicVdpa;

/// <summary>
/// Byte offsets in a virtio window: struct virtio_pci_common_cfg by the standard's names (VIRTIO 1.2, 4.1.4.3), then the adapter's own
/// (docs/adapter-registers.md).
/// </summary>
internal static class WindowRegister
{
    public const int device_feature_select = 0x00;
    public const int device_feature = 0x04;
    public const int driver_feature_select = 0x08;
    public const int driver_feature = 0x0C;
    public const int device_status = 0x14;
    public const int config_generation = 0x15;
    public const int queue_select = 0x16;
    public const int queue_size = 0x18;
    public const int queue_msix_vector = 0x1A;
    public const int queue_enable = 0x1C;
    public const int queue_desc = 0x20;
    public const int queue_driver = 0x28;
    public const int queue_device = 0x30;
    public const int DeviceId = 0x40;
    public const int ConfigSize = 0x44;
    public const int QueueState = 0x48;
    public const int QueuePoll = 0x4A;
    public const int QueueError = 0x4C;
    public const int QueueRequests = 0x50;
    public const int QueueBytes = 0x58;
    public const int QueueErrors = 0x60;
    public const int QueueKicks = 0x68;
    public const int QueueCalls = 0x70;
    public const int MaxQueueSize = 0x78;
    public const int ConfigError = 0x7C;
    public const int ErrorText = 0x80;
    public const int ErrorTextSize = 96;
    public const int NextUser = 0xE0;
    public const int QueueInPlace = 0xE8;
    public const int QueueUring = 0xF0;
    public const int QueueWorker = 0xF8;
    public const int DeviceConfig = 0x100;
}
