using Virtbus.Platform;

namespace Virtbus.Virtio.Rings;

/// <summary>
/// Where a queue that stands still goes on: what a back end needs to take it over from another one. Of a split ring that is the index of
/// the next available buffer, since the used index stands in the ring itself (VIRTIO 1.2, 2.7.8). Of a packed ring both places are needed
/// and the wrap counter of each (2.8.1). A value of this type is always one that such a ring can have.
/// </summary>
public readonly record struct QueueState
{
    // What vhost-user and Linux's vDPA carry for a packed ring: 15 bits of place and the wrap counter above, available below, used above.
    private const int WrapBit = 15;
    private const int UsedShift = 16;
    private const ushort PlaceMask = (1 << WrapBit) - 1;

    private QueueState(bool isPacked, ushort nextAvailable, ushort nextUsed, bool availableWrap, bool usedWrap)
    {
        IsPacked = isPacked;
        NextAvailable = nextAvailable;
        NextUsed = nextUsed;
        AvailableWrap = availableWrap;
        UsedWrap = usedWrap;
    }

    /// <summary>Whether it is of a packed ring.</summary>
    public bool IsPacked { get; }

    /// <summary>Split: the free-running index of the next buffer in the available ring. Packed: the place of the next available descriptor.</summary>
    public ushort NextAvailable { get; }

    /// <summary>Packed: the place of the next used descriptor. Split: 0, the ring says it.</summary>
    public ushort NextUsed { get; }

    /// <summary>Packed: the device's wrap counter for available descriptors.</summary>
    public bool AvailableWrap { get; }

    /// <summary>Packed: the device's wrap counter for used descriptors.</summary>
    public bool UsedWrap { get; }

    /// <summary>The state of a ring that nobody has used yet. That of a split one is the default value, which a device takes for either form.</summary>
    /// <param name="isPacked">Whether it is a packed ring.</param>
    public static QueueState Beginning(bool isPacked) => isPacked ? new(isPacked: true, 0, 0, availableWrap: true, usedWrap: true) : default;

    /// <summary>The state of a split ring.</summary>
    /// <param name="nextAvailable">Free-running index in the available ring.</param>
    public static QueueState Split(ushort nextAvailable) => new(isPacked: false, nextAvailable, 0, availableWrap: false, usedWrap: false);

    /// <summary>The state of a packed ring.</summary>
    /// <param name="nextAvailable">Place of the next available descriptor, below 32768.</param>
    /// <param name="availableWrap">Its wrap counter.</param>
    /// <param name="nextUsed">Place of the next used descriptor, below 32768.</param>
    /// <param name="usedWrap">Its wrap counter.</param>
    /// <param name="state">The state.</param>
    /// <param name="fault">EINVAL: a place is out of bounds.</param>
    /// <returns>Whether there is such a state.</returns>
    public static bool TryPacked(ushort nextAvailable, bool availableWrap, ushort nextUsed, bool usedWrap, out QueueState state, out Fault fault)
    {
        var fits = nextAvailable <= PlaceMask && nextUsed <= PlaceMask;
        state = fits ? new QueueState(isPacked: true, nextAvailable, nextUsed, availableWrap, usedWrap) : default;
        fault = fits ? Fault.None : new Fault(Errno.EINVAL, "a place in a packed ring has 15 bits");
        return fits;
    }

    /// <summary>Reads the number by which vhost-user and vDPA name a state.</summary>
    /// <param name="value">The number.</param>
    /// <param name="isPacked">Whether VIRTIO_F_RING_PACKED is in use.</param>
    /// <param name="state">The state.</param>
    /// <param name="fault">EINVAL: it is none of such a ring.</param>
    /// <returns>Whether it was read.</returns>
    public static bool TryDecode(uint value, bool isPacked, out QueueState state, out Fault fault)
    {
        if (isPacked)
        {
            return TryPacked(
                (ushort)(value & PlaceMask), (value >> WrapBit & 1) != 0, (ushort)(value >> UsedShift & PlaceMask), value >> (UsedShift + WrapBit) != 0,
                out state, out fault);
        }

        var fits = value <= ushort.MaxValue;
        state = fits ? Split((ushort)value) : default;
        fault = fits ? Fault.None : new Fault(Errno.EINVAL, "the base of a split ring has 16 bits");
        return fits;
    }

    /// <summary>The number by which vhost-user and vDPA name the state.</summary>
    public uint Encode() => !IsPacked
        ? NextAvailable
        : NextAvailable | (AvailableWrap ? 1u << WrapBit : 0) | ((uint)NextUsed << UsedShift) | (UsedWrap ? 1u << (UsedShift + WrapBit) : 0);
}
