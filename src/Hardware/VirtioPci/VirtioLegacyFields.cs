using Virtbus.Virtio;

namespace Virtbus.Hardware.VirtioPci;

/// <summary>Where fields of what a legacy driver reads end, so that an access to more than one is told from one to a part of one (VIRTIO 1.4, 2.12.1.1).</summary>
internal static class VirtioLegacyFields
{
    // The header with its vectors (4.1.4.10).
    private static ReadOnlySpan<byte> Header => [4, 8, 12, 14, 16, 18, 19, 20, 22, 24];

    // 5.1.4.
    private static ReadOnlySpan<byte> Net => [6, 8, 10, 12, 16, 17, 18, 20, 24];

    // 5.2.4.
    private static ReadOnlySpan<byte> Block => [8, 12, 16, 18, 19, 20, 24, 25, 26, 28, 32, 33, 34, 36, 40, 44, 48, 52, 56, 57, 60, 64, 68, 72, 76, 80, 84, 88, 92, 93, 96];

    // 5.3.4.
    private static ReadOnlySpan<byte> Console => [2, 4, 8, 12];

    /// <summary>Whether devices of a type can have a legacy form that commands reach.</summary>
    internal static bool Has(uint type) =>
        type is VirtioDeviceId.VIRTIO_ID_NET or VirtioDeviceId.VIRTIO_ID_BLOCK or VirtioDeviceId.VIRTIO_ID_CONSOLE or VirtioDeviceId.VIRTIO_ID_RNG;

    /// <summary>Whether bytes of the header are of one field.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="length">How many; none are of no field.</param>
    /// <param name="size">How long the header is now.</param>
    internal static bool IsInHeader(int offset, int length, int size) => IsWithinOne(Header, offset, length, size);

    /// <summary>Whether bytes of a device's configuration are of one field.</summary>
    /// <param name="device">The device.</param>
    /// <param name="offset">First byte.</param>
    /// <param name="length">How many; none are of no field.</param>
    internal static bool IsInConfig(VirtioDevice device, int offset, int length) => IsWithinOne(Of(device.DeviceId), offset, length, device.ConfigSize);

    private static ReadOnlySpan<byte> Of(uint type) => type switch
    {
        VirtioDeviceId.VIRTIO_ID_NET => Net,
        VirtioDeviceId.VIRTIO_ID_BLOCK => Block,
        VirtioDeviceId.VIRTIO_ID_CONSOLE => Console,
        _ => [],
    };

    private static bool IsWithinOne(ReadOnlySpan<byte> ends, int offset, int length, int size)
    {
        if (length < 1)
            return false;
        foreach (var end in ends)
        {
            if (offset < end)
                return length <= end - offset && offset + length <= size;
        }

        return false;
    }
}
