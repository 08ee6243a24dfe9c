using System.Buffers.Binary;

namespace Virtbus.Models.VirtioNet;

/// <summary>
/// Features and the configuration space of a virtio network device (VIRTIO 1.3, 5.1.3 and 5.1.4), by the standard's names. Features are bit numbers.
/// </summary>
public static class VirtioNetConfig
{
    /// <summary>The device takes frames whose checksum is still to be put in.</summary>
    public const int VIRTIO_NET_F_CSUM = 0;

    /// <summary>The driver takes frames whose checksum is still to be put in.</summary>
    public const int VIRTIO_NET_F_GUEST_CSUM = 1;

    /// <summary>The driver may change which offloads it takes.</summary>
    public const int VIRTIO_NET_F_CTRL_GUEST_OFFLOADS = 2;

    /// <summary>mtu is valid.</summary>
    public const int VIRTIO_NET_F_MTU = 3;

    /// <summary>mac is valid.</summary>
    public const int VIRTIO_NET_F_MAC = 5;

    /// <summary>The driver takes TCP over IPv4 that is still to be cut.</summary>
    public const int VIRTIO_NET_F_GUEST_TSO4 = 7;

    /// <summary>The driver takes TCP over IPv6 that is still to be cut.</summary>
    public const int VIRTIO_NET_F_GUEST_TSO6 = 8;

    /// <summary>The driver takes TCP to be cut that tells congestion.</summary>
    public const int VIRTIO_NET_F_GUEST_ECN = 9;

    /// <summary>The device takes TCP over IPv4 that is still to be cut.</summary>
    public const int VIRTIO_NET_F_HOST_TSO4 = 11;

    /// <summary>The device takes TCP over IPv6 that is still to be cut.</summary>
    public const int VIRTIO_NET_F_HOST_TSO6 = 12;

    /// <summary>The device takes TCP to be cut that tells congestion.</summary>
    public const int VIRTIO_NET_F_HOST_ECN = 13;

    /// <summary>A frame may lie in several receive buffers.</summary>
    public const int VIRTIO_NET_F_MRG_RXBUF = 15;

    /// <summary>status is valid.</summary>
    public const int VIRTIO_NET_F_STATUS = 16;

    /// <summary>There is a control queue.</summary>
    public const int VIRTIO_NET_F_CTRL_VQ = 17;

    /// <summary>The driver chooses which frames it is given.</summary>
    public const int VIRTIO_NET_F_CTRL_RX = 18;

    /// <summary>The driver chooses which VLANs it is given.</summary>
    public const int VIRTIO_NET_F_CTRL_VLAN = 19;

    /// <summary>There are more modes of choosing frames.</summary>
    public const int VIRTIO_NET_F_CTRL_RX_EXTRA = 20;

    /// <summary>The driver tells the network where it is when it is asked to.</summary>
    public const int VIRTIO_NET_F_GUEST_ANNOUNCE = 21;

    /// <summary>There are several queue pairs, and the device finds a flow's.</summary>
    public const int VIRTIO_NET_F_MQ = 22;

    /// <summary>The driver sets its address by a command.</summary>
    public const int VIRTIO_NET_F_CTRL_MAC_ADDR = 23;

    /// <summary>The driver says for each queue how many used buffers it is told of together.</summary>
    public const int VIRTIO_NET_F_VQ_NOTF_COAL = 52;

    /// <summary>The driver says for all queues of a kind how many used buffers it is told of together.</summary>
    public const int VIRTIO_NET_F_NOTF_COAL = 53;

    /// <summary>The driver takes UDP over IPv4, several datagrams in one.</summary>
    public const int VIRTIO_NET_F_GUEST_USO4 = 54;

    /// <summary>The driver takes UDP over IPv6, several datagrams in one.</summary>
    public const int VIRTIO_NET_F_GUEST_USO6 = 55;

    /// <summary>The device takes UDP, several datagrams in one.</summary>
    public const int VIRTIO_NET_F_HOST_USO = 56;

    /// <summary>A received frame comes with a hash of its flow.</summary>
    public const int VIRTIO_NET_F_HASH_REPORT = 57;

    /// <summary>The driver says which flow goes to which queue.</summary>
    public const int VIRTIO_NET_F_RSS = 60;

    /// <summary>speed and duplex are valid.</summary>
    public const int VIRTIO_NET_F_SPEED_DUPLEX = 63;

    /// <summary>Bit of the field status: the link is up.</summary>
    public const ushort VIRTIO_NET_S_LINK_UP = 1;

    /// <summary>Bit of the field status: the driver is asked to tell the network where it is.</summary>
    public const ushort VIRTIO_NET_S_ANNOUNCE = 2;

    /// <summary>Size of struct virtio_net_config in bytes, up to supported_hash_types.</summary>
    public const int Size = 24;

    /// <summary>Byte offset of the field status.</summary>
    public const int StatusOffset = 6;

    /// <summary>The most queue pairs: with the control queue they are within what a device may have.</summary>
    public const int MostPairs = 127;

    /// <summary>Hash types that the device knows (5.1.6.4.3): IPv4, TCPv4, UDPv4, IPv6, TCPv6, UDPv6, bit 0 to 5.</summary>
    public const uint HashTypes = 0x3F;

    internal const int MacSize = 6;
    internal const int MostKeyBytes = 40;
    internal const int MostTableEntries = 128;

    internal static void Write(Span<byte> space, VirtioNetOptions options, ulong mac, ushort status)
    {
        WriteMac(space, mac);
        BinaryPrimitives.WriteUInt16LittleEndian(space[StatusOffset..], status);
        BinaryPrimitives.WriteUInt16LittleEndian(space[8..], (ushort)options.QueuePairs);
        BinaryPrimitives.WriteUInt16LittleEndian(space[10..], (ushort)options.Mtu);
        BinaryPrimitives.WriteUInt32LittleEndian(space[12..], options.Speed ?? uint.MaxValue);
        // 1 is full, as Linux has it: the text of 5.1.4 and that of 5.1.4.1 contradict each other.
        space[16] = options.IsFullDuplex switch { true => 1, false => 0, null => 0xFF };
        space[17] = MostKeyBytes;
        BinaryPrimitives.WriteUInt16LittleEndian(space[18..], MostTableEntries);
        BinaryPrimitives.WriteUInt32LittleEndian(space[20..], HashTypes);
    }

    internal static void WriteMac(Span<byte> to, ulong mac)
    {
        BinaryPrimitives.WriteUInt16BigEndian(to, (ushort)(mac >> 32));
        BinaryPrimitives.WriteUInt32BigEndian(to[2..], (uint)mac);
    }

    internal static ulong ReadMac(ReadOnlySpan<byte> from) =>
        ((ulong)BinaryPrimitives.ReadUInt16BigEndian(from) << 32) | BinaryPrimitives.ReadUInt32BigEndian(from[2..]);
}
