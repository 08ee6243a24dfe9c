namespace Virtbus.Virtio;

/// <summary>Device status bits (VIRTIO 1.2, 2.1), by the standard's names.</summary>
public static class VirtioStatus
{
    /// <summary>The guest has seen the device.</summary>
    public const byte ACKNOWLEDGE = 1;

    /// <summary>The guest knows how to drive it.</summary>
    public const byte DRIVER = 2;

    /// <summary>The driver is ready: queues run.</summary>
    public const byte DRIVER_OK = 4;

    /// <summary>Features are settled.</summary>
    public const byte FEATURES_OK = 8;

    /// <summary>The driver has suspended the device (VIRTIO 1.4, 3.4); DRIVER_OK is not set meanwhile.</summary>
    public const byte SUSPEND = 16;

    /// <summary>The device met an error that only a reset mends.</summary>
    public const byte DEVICE_NEEDS_RESET = 64;

    /// <summary>The guest gave the device up.</summary>
    public const byte FAILED = 128;
}
