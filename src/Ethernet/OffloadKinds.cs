namespace Virtbus.Ethernet;

/// <summary>What a frame's sender may leave to whoever takes the frame.</summary>
[Flags]
public enum OffloadKinds
{
    /// <summary>Nothing: only frames that a wire can have.</summary>
    None = 0,

    /// <summary>A checksum that is still to be put in.</summary>
    Checksum = 1,

    /// <summary>TCP over IPv4, longer than a wire takes.</summary>
    TcpV4 = 2,

    /// <summary>TCP over IPv6, longer than a wire takes.</summary>
    TcpV6 = 4,

    /// <summary>TCP to be cut that tells congestion.</summary>
    Ecn = 8,

    /// <summary>UDP over IPv4, several datagrams in one.</summary>
    UdpV4 = 16,

    /// <summary>UDP over IPv6, several datagrams in one.</summary>
    UdpV6 = 32,

    /// <summary>All.</summary>
    All = Checksum | TcpV4 | TcpV6 | Ecn | UdpV4 | UdpV6,
}
