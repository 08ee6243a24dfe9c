namespace Virtbus.Virtio.Admin;

/// <summary>How many objects for parts of members' states there can be (struct virtio_dev_parts_cap; VIRTIO 1.4, 2.12.1.4.1).</summary>
/// <param name="GetLimit">Of those that read.</param>
/// <param name="SetLimit">Of those that set.</param>
public readonly record struct DevicePartsCapability(byte GetLimit, byte SetLimit)
{
    /// <summary>Bytes of it.</summary>
    public const int Size = 2;

    /// <summary>Reads it.</summary>
    /// <param name="source">Its bytes; what is missing counts as 0.</param>
    public static DevicePartsCapability Read(ReadOnlySpan<byte> source) => new(source.Length > 0 ? source[0] : (byte)0, source.Length > 1 ? source[1] : (byte)0);

    /// <summary>Writes it.</summary>
    /// <param name="destination">Where to; at least <see cref="Size"/> bytes.</param>
    public void Write(Span<byte> destination) => (destination[0], destination[1]) = (GetLimit, SetLimit);
}
