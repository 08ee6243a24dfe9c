namespace Virtbus.Virtio;

/// <summary>
/// What a driver writes where a device is notified (VIRTIO 1.2, 2.9 and 4.1.5.2): the queue's number in 16 bits; with
/// VIRTIO_F_NOTIFICATION_DATA 32 bits, whose upper half says how far the driver is. Whatever the bits, they make a notification; whether there is such
/// a queue and place is for who gets it to ask.
/// </summary>
/// <param name="Queue">Queue number; with VIRTIO_F_NOTIF_CONFIG_DATA what the device gave for it.</param>
/// <param name="Next">
/// Split ring: free-running index of the next buffer that the driver will make available. Packed ring: place of the next descriptor, below 32768.
/// </param>
/// <param name="Wrap">Packed ring: the driver's wrap counter at that place.</param>
public readonly record struct VirtioNotification(ushort Queue, ushort Next, bool Wrap = false)
{
    private const int PlaceShift = 16;
    private const int WrapShift = 31;
    private const ushort PlaceMask = 0x7FFF;

    /// <summary>Reads a notification of 32 bits.</summary>
    /// <param name="value">The value that was written.</param>
    /// <param name="isPacked">Whether VIRTIO_F_RING_PACKED is in use.</param>
    public static VirtioNotification Decode(uint value, bool isPacked)
    {
        var place = (ushort)(value >> PlaceShift);
        return isPacked
            ? new VirtioNotification((ushort)value, (ushort)(place & PlaceMask), value >> WrapShift != 0)
            : new VirtioNotification((ushort)value, place);
    }

    /// <summary>The value of 32 bits that a driver writes.</summary>
    public uint Encode() => Queue | ((uint)Next << PlaceShift) | (Wrap ? 1u << WrapShift : 0);
}
