using System.Buffers.Binary;

namespace Virtbus.Ethernet;

/// <summary>Where in a frame the headers stand that its offload data speaks of, checked against the frame.</summary>
/// <param name="Needs">What has to be done to it before a wire takes it.</param>
/// <param name="Network">Where the IP header begins; 0 when it is not to be cut.</param>
/// <param name="HeaderLength">Where the payload begins; 0 when it is not to be cut.</param>
/// <param name="IsV6">Whether it is IPv6.</param>
/// <param name="IsTcp">Whether it is TCP; else UDP.</param>
internal readonly record struct FrameLayout(OffloadKinds Needs, int Network, int HeaderLength, bool IsV6, bool IsTcp)
{
    /// <summary>The most that headers take up behind the checksum's start, in bytes: those of TCP.</summary>
    internal const int MaxTransportHeader = 60;

    // One of a guest costs so many at most. The smallest segments of real TCP make fewer.
    internal const int MaxSegments = 2048;
    private const int MaxTags = 2;
    private const ushort TypeIpv4 = 0x0800;
    private const ushort TypeIpv6 = 0x86DD;
    private const byte ProtocolTcp = 6;
    private const byte ProtocolUdp = 17;
    private const int Ipv4Header = 20;
    private const int Ipv6Header = 40;
    private const int TcpHeader = 20;
    private const int UdpHeader = 8;
    internal const int TcpChecksum = 16;
    private const int MaxIpLength = ushort.MaxValue;

    /// <summary>Reads it.</summary>
    /// <param name="head">The frame's first bytes: at least those of a header, and up to <see cref="MaxTransportHeader"/> behind the checksum's start where the frame has them.</param>
    /// <param name="length">Bytes of the whole frame.</param>
    /// <param name="offload">What its sender left.</param>
    /// <param name="spare">How much the frame may still grow by.</param>
    /// <param name="layout">The answer.</param>
    /// <returns>False for nonsense.</returns>
    public static bool TryRead(ReadOnlySpan<byte> head, int length, in FrameOffload offload, int spare, out FrameLayout layout)
    {
        layout = default;
        var needsChecksum = (offload.Flags & FrameFlags.NeedsChecksum) != FrameFlags.None;
        if (offload.Segmentation == SegmentationType.None && !needsChecksum)
            return true;
        // How many segments were joined stands where the checksum's place would; a frame to be cut has its checksum open (VIRTIO 1.2, 5.1.6.2).
        if (!needsChecksum || (offload.Flags & FrameFlags.SegmentInfo) != FrameFlags.None)
            return false;
        if (!TryReadTags(head, out var network, out var type))
            return false;
        int start = offload.ChecksumStart;
        if (start < network || start + offload.ChecksumOffset + 2 > length)
            return false;
        if (offload.Segmentation == SegmentationType.None)
        {
            layout = new FrameLayout(OffloadKinds.Checksum, 0, 0, false, false);
            return true;
        }
        var hasEcn = (offload.Segmentation & SegmentationType.Ecn) != SegmentationType.None;
        var needs = (offload.Segmentation & ~SegmentationType.Ecn, type) switch
        {
            (SegmentationType.TcpV4, TypeIpv4) => OffloadKinds.Checksum | OffloadKinds.TcpV4,
            (SegmentationType.TcpV6, TypeIpv6) => OffloadKinds.Checksum | OffloadKinds.TcpV6,
            (SegmentationType.UdpDatagrams, TypeIpv4) when !hasEcn => OffloadKinds.Checksum | OffloadKinds.UdpV4,
            (SegmentationType.UdpDatagrams, TypeIpv6) when !hasEcn => OffloadKinds.Checksum | OffloadKinds.UdpV6,
            _ => OffloadKinds.None,
        };
        if (needs == OffloadKinds.None)
            return false;
        if (hasEcn)
            needs |= OffloadKinds.Ecn;
        var isTcp = (needs & (OffloadKinds.TcpV4 | OffloadKinds.TcpV6)) != OffloadKinds.None;
        var isV6 = type == TypeIpv6;
        if (offload.ChecksumOffset != (isTcp ? TcpChecksum : InternetChecksum.UdpOffset) || start + (isTcp ? TcpHeader : UdpHeader) > head.Length)
            return false;
        var protocol = isTcp ? ProtocolTcp : ProtocolUdp;
        if (!(isV6 ? IsIpv6(head, network, start, protocol) : IsIpv4(head, network, start, protocol)))
            return false;
        if (length - network - (isV6 ? Ipv6Header : 0) > MaxIpLength)
            return false;
        var transport = isTcp ? (head[start + 12] >> 4) * 4 : UdpHeader;
        var headers = start + transport;
        if ((isTcp && transport < TcpHeader) || headers > head.Length)
            return false;
        var payload = length - headers;
        if (offload.SegmentSize == 0 || payload > offload.SegmentSize * MaxSegments
            || headers + Math.Min(payload, offload.SegmentSize) + spare > EthernetFrame.MaxLength)
            return false;
        layout = new FrameLayout(needs, network, headers, isV6, isTcp);
        return true;
    }

    private static bool TryReadTags(ReadOnlySpan<byte> head, out int network, out ushort type)
    {
        network = EthernetFrame.MinLength;
        type = BinaryPrimitives.ReadUInt16BigEndian(head[(network - 2)..]);
        for (var tags = 0; type is VlanTag.CustomerType or VlanTag.ServiceType; tags++)
        {
            network += VlanTag.Length;
            if (tags == MaxTags || network > head.Length)
                return false;
            type = BinaryPrimitives.ReadUInt16BigEndian(head[(network - 2)..]);
        }
        return true;
    }

    // RFC 791, 3.1. A fragment has no header to cut by.
    private static bool IsIpv4(ReadOnlySpan<byte> head, int network, int transport, byte protocol) =>
        network + Ipv4Header <= transport
        && head[network] >> 4 == 4
        && (head[network] & 0xF) * 4 == transport - network
        && head[network + 9] == protocol
        && (BinaryPrimitives.ReadUInt16BigEndian(head[(network + 6)..]) & 0x3FFF) == 0;

    // RFC 8200, 3 and 4: only the headers that each segment may carry stand between.
    private static bool IsIpv6(ReadOnlySpan<byte> head, int network, int transport, byte protocol)
    {
        const byte HopByHop = 0;
        const byte Routing = 43;
        const byte DestinationOptions = 60;
        if (network + Ipv6Header > transport || head[network] >> 4 != 6)
            return false;
        var next = head[network + 6];
        var at = network + Ipv6Header;
        while (at < transport)
        {
            if (next is not (HopByHop or Routing or DestinationOptions))
                return false;
            next = head[at];
            at += (head[at + 1] + 1) * 8;
        }
        return at == transport && next == protocol;
    }
}
