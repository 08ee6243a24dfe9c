namespace Virtbus.Virtio;

/// <summary>
/// A set of feature bits (VIRTIO 1.2, 2.2), 128 of them. The constants are bit numbers, by the standard's names. vhost-user and vDPA carry
/// the first 64 bits; who stands at such an edge takes <see cref="Low"/>.
/// </summary>
/// <param name="Low">Bits 0 to 63, bit 0 lowest.</param>
/// <param name="High">Bits 64 to 127.</param>
public readonly record struct VirtioFeatures(ulong Low, ulong High = 0)
{
    /// <summary>How many bits there are.</summary>
    public const int Count = 128;

    /// <summary>Descriptors may point to tables of descriptors.</summary>
    public const int VIRTIO_F_INDIRECT_DESC = 28;

    /// <summary>Both sides say by index when they want to be woken.</summary>
    public const int VIRTIO_F_EVENT_IDX = 29;

    /// <summary>The device follows version 1 of the standard.</summary>
    public const int VIRTIO_F_VERSION_1 = 32;

    /// <summary>The device's addresses go through an IOMMU.</summary>
    public const int VIRTIO_F_ACCESS_PLATFORM = 33;

    /// <summary>Queues are packed rings.</summary>
    public const int VIRTIO_F_RING_PACKED = 34;

    /// <summary>The device uses buffers in the order in which they were made available.</summary>
    public const int VIRTIO_F_IN_ORDER = 35;

    /// <summary>Memory is ordered as the platform orders it, between devices too.</summary>
    public const int VIRTIO_F_ORDER_PLATFORM = 36;

    /// <summary>The device has virtual functions.</summary>
    public const int VIRTIO_F_SR_IOV = 37;

    /// <summary>A notification carries the index of what was made available.</summary>
    public const int VIRTIO_F_NOTIFICATION_DATA = 38;

    /// <summary>The device says what a notification is to carry.</summary>
    public const int VIRTIO_F_NOTIF_CONFIG_DATA = 39;

    /// <summary>One queue can be reset alone.</summary>
    public const int VIRTIO_F_RING_RESET = 40;

    /// <summary>The device has administration queues.</summary>
    public const int VIRTIO_F_ADMIN_VQ = 41;

    /// <summary>The driver may suspend the device.</summary>
    public const int VIRTIO_F_SUSPEND = 43;

    private const int WordBits = 32;

    /// <summary>The empty set.</summary>
    public static VirtioFeatures None => default;

    /// <summary>Whether the set is empty.</summary>
    public bool IsEmpty => (Low | High) == 0;

    /// <summary>Makes a set.</summary>
    /// <param name="bits">Numbers of bits, each below <see cref="Count"/>.</param>
    /// <returns>The set.</returns>
    /// <exception cref="ArgumentOutOfRangeException">A number is none.</exception>
    public static VirtioFeatures Of(params ReadOnlySpan<int> bits)
    {
        var all = None;
        foreach (var bit in bits)
            all = all.With(bit);
        return all;
    }

    /// <summary>Whether a bit is in.</summary>
    /// <param name="bit">Its number, 0 to <see cref="Count"/> - 1.</param>
    public bool Has(int bit) => !(this & One(bit)).IsEmpty;

    /// <summary>The set with one bit more.</summary>
    /// <param name="bit">Its number, 0 to <see cref="Count"/> - 1.</param>
    public VirtioFeatures With(int bit) => this | One(bit);

    /// <summary>The set without a bit.</summary>
    /// <param name="bit">Its number, 0 to <see cref="Count"/> - 1.</param>
    public VirtioFeatures Without(int bit) => this & ~One(bit);

    /// <summary>Whether all bits are in another set, as what a driver takes has to be in what was offered.</summary>
    /// <param name="offered">The other set.</param>
    public bool IsWithin(VirtioFeatures offered) => (this & ~offered).IsEmpty;

    /// <summary>32 bits of the set, as registers show them behind a selector (4.1.4.3).</summary>
    /// <param name="select">Which: 0 for bits 0 to 31 and so on; above 3 there is nothing and it reads 0.</param>
    public uint Word(uint select) => select switch
    {
        0 => (uint)Low,
        1 => (uint)(Low >> WordBits),
        2 => (uint)High,
        3 => (uint)(High >> WordBits),
        _ => 0,
    };

    /// <summary>The set with 32 bits of it replaced.</summary>
    /// <param name="select">Which, as for <see cref="Word"/>; above 3 nothing changes.</param>
    /// <param name="value">The bits.</param>
    public VirtioFeatures WithWord(uint select, uint value) => select switch
    {
        0 => this with { Low = (Low & ~(ulong)uint.MaxValue) | value },
        1 => this with { Low = (Low & uint.MaxValue) | ((ulong)value << WordBits) },
        2 => this with { High = (High & ~(ulong)uint.MaxValue) | value },
        3 => this with { High = (High & uint.MaxValue) | ((ulong)value << WordBits) },
        _ => this,
    };

    /// <summary>What is in one set or the other.</summary>
    public static VirtioFeatures operator |(VirtioFeatures left, VirtioFeatures right) => new(left.Low | right.Low, left.High | right.High);

    /// <summary>What is in both sets.</summary>
    public static VirtioFeatures operator &(VirtioFeatures left, VirtioFeatures right) => new(left.Low & right.Low, left.High & right.High);

    /// <summary>What is not in the set.</summary>
    public static VirtioFeatures operator ~(VirtioFeatures set) => new(~set.Low, ~set.High);

    /// <summary>The set as a hexadecimal number.</summary>
    public override string ToString() => High == 0 ? $"0x{Low:x}" : $"0x{High:x}{Low:x16}";

    private static VirtioFeatures One(int bit)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)bit, (uint)Count, nameof(bit));
        return bit < 64 ? new VirtioFeatures(1UL << bit) : new VirtioFeatures(0, 1UL << (bit - 64));
    }
}
