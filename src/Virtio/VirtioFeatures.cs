namespace Virtbus.Virtio;

/// <summary>Feature bits that all virtio devices share (VIRTIO 1.2, 6), by the standard's names.</summary>
public static class VirtioFeatures
{
    /// <summary>Descriptors may point to tables of descriptors.</summary>
    public const ulong VIRTIO_F_INDIRECT_DESC = 1UL << 28;

    /// <summary>Both sides say by index when they want to be woken.</summary>
    public const ulong VIRTIO_F_EVENT_IDX = 1UL << 29;

    /// <summary>The device follows version 1 of the standard.</summary>
    public const ulong VIRTIO_F_VERSION_1 = 1UL << 32;
}
