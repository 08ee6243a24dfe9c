namespace Virtbus.Ethernet;

/// <summary>How a frame that is too long for a wire is cut; the values are those of virtio_net_hdr's gso_type (VIRTIO 1.2, 5.1.6).</summary>
[Flags]
public enum SegmentationType : byte
{
    /// <summary>It is not.</summary>
    None = 0,

    /// <summary>TCP over IPv4.</summary>
    TcpV4 = 1,

    /// <summary>UDP, as fragments.</summary>
    Udp = 3,

    /// <summary>TCP over IPv6.</summary>
    TcpV6 = 4,

    /// <summary>UDP, as datagrams.</summary>
    UdpDatagrams = 5,

    /// <summary>Added to one of TCP: congestion is told in the header.</summary>
    Ecn = 0x80,
}
