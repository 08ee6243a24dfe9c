using System.Buffers.Binary;

namespace Virtbus.Ethernet;

/// <summary>
/// An Ethernet frame without its check sequence, and what its sender left to whoever takes it. Valid as long as the memory behind it; who
/// keeps one copies it.
/// </summary>
public readonly ref struct EthernetFrame
{
    /// <summary>The shortest frame in bytes: a header.</summary>
    public const int MinLength = 14;

    /// <summary>The longest frame in bytes: 9,000 of payload with header and two VLAN tags.</summary>
    public const int MaxLength = 9022;

    /// <summary>The longest frame that is still to be cut, in bytes: the longest IP packet with header and two VLAN tags.</summary>
    public const int MaxUncutLength = 65557;

    /// <summary>What a frame has beside its payload, in bytes: a header with one VLAN tag.</summary>
    public const int Overhead = 18;

    private const int UdpHeader = 8;
    // Where TCP's header says how long it is, in the upper half of the byte (RFC 9293, 3.1).
    private const int TcpHeaderWords = 12;

    /// <summary>Makes a frame.</summary>
    /// <param name="bytes">From the destination address on; <see cref="IsValid"/> says whether the length is one that Ethernet has.</param>
    /// <param name="offload">What is left to do; nothing by default.</param>
    public EthernetFrame(ReadOnlySpan<byte> bytes, FrameOffload offload = default)
    {
        Bytes = bytes;
        Offload = offload;
    }

    /// <summary>The frame's bytes.</summary>
    public ReadOnlySpan<byte> Bytes { get; }

    /// <summary>What is left to do, and what is known of it.</summary>
    public FrameOffload Offload { get; }

    /// <summary>Bytes of the frame.</summary>
    public int Length => Bytes.Length;

    /// <summary>Bytes of the longest frame that it is cut into, by what its sender says of it; its own where it is not to be cut.</summary>
    public int PieceLength
    {
        get
        {
            if (Offload.Segmentation == SegmentationType.None)
                return Length;
            var transport = UdpHeader;
            if (Offload.Segmentation != SegmentationType.UdpDatagrams)
            {
                var at = Offload.ChecksumStart + TcpHeaderWords;
                transport = at < Length ? (Bytes[at] >> 4) * sizeof(uint) : 0;
            }

            return Math.Min(Length, Offload.ChecksumStart + transport + Offload.SegmentSize);
        }
    }

    /// <summary>Whether the length is one that Ethernet has. Peers' frames are looked at only when it is.</summary>
    public bool IsValid => HasValidLength(Length, Offload);

    /// <summary>The address that it goes to, 48 bits.</summary>
    public ulong Destination => Address(Bytes);

    /// <summary>The address that it comes from, 48 bits.</summary>
    public ulong Source => Address(Bytes[6..]);

    /// <summary>What has to be done to the frame before a wire takes it.</summary>
    /// <param name="needs">The answer.</param>
    /// <returns>False when its length is not one that Ethernet has, or its offload data does not fit it: it goes nowhere.</returns>
    public bool TryGetNeeds(out OffloadKinds needs)
    {
        needs = OffloadKinds.None;
        if (!IsValid)
            return false;
        var isSound = FrameLayout.TryRead(Bytes, Length, Offload, 0, out var layout);
        needs = layout.Needs;
        return isSound;
    }

    /// <summary>Whether an address is that of a group: the lowest bit of its first byte (IEEE 802.3, 3.2.3).</summary>
    /// <param name="address">48 bits.</param>
    public static bool IsMulticast(ulong address) => (address >> 40 & 1) != 0;

    /// <summary>Whether a length is one that Ethernet has.</summary>
    /// <param name="length">Bytes.</param>
    /// <param name="offload">Whether it is still to be cut.</param>
    internal static bool HasValidLength(int length, in FrameOffload offload) =>
        length >= MinLength && length <= (offload.Segmentation == SegmentationType.None ? MaxLength : MaxUncutLength);

    private static ulong Address(ReadOnlySpan<byte> bytes) =>
        ((ulong)BinaryPrimitives.ReadUInt16BigEndian(bytes) << 32) | BinaryPrimitives.ReadUInt32BigEndian(bytes[2..]);
}
