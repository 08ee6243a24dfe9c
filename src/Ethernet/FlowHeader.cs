using System.Buffers.Binary;
using System.Numerics;
using System.Runtime.InteropServices;

namespace Virtbus.Ethernet;

/// <summary>Where in a frame lies what names its flow. The frame is a peer's: what is cut short, or in fragments, has less of it.</summary>
/// <param name="AddressesAt">First byte of the source address, the other one behind it; 0 for no IP.</param>
/// <param name="IsV6">Whether it is IPv6; IPv4 otherwise.</param>
/// <param name="PortsAt">First byte of the source port, the other one behind it; 0 for none.</param>
/// <param name="Protocol">What lies in the IP packet.</param>
[StructLayout(LayoutKind.Auto)]
public readonly record struct FlowHeader(int AddressesAt, bool IsV6, int PortsAt, byte Protocol)
{
    /// <summary>The protocol TCP.</summary>
    public const byte Tcp = 6;

    /// <summary>The protocol UDP.</summary>
    public const byte Udp = 17;

    private const int MostTags = 2;
    private const int MostExtensions = 8;
    private const byte HopByHop = 0;
    private const byte Routing = 43;
    private const byte Fragment = 44;
    private const byte DestinationOptions = 60;

    /// <summary>Bytes of addresses.</summary>
    public int AddressBytes => AddressesAt == 0 ? 0 : IsV6 ? 32 : 8;

    /// <summary>Whether a frame has the tag of a VLAN that a driver chooses: a customer's. A service's is payload.</summary>
    /// <param name="frame">A frame, of its header or more.</param>
    public static bool IsTagged(ReadOnlySpan<byte> frame) => frame.Length >= EthernetFrame.MinLength + VlanTag.Length && Type(frame, VlanTag.Offset) == VlanTag.CustomerType;

    /// <summary>Bytes of the Ethernet header with its tags, two at most.</summary>
    /// <param name="frame">A frame, of its header or more.</param>
    public static int EthernetBytes(ReadOnlySpan<byte> frame)
    {
        var at = VlanTag.Offset;
        for (var tags = 0; tags < MostTags && at + VlanTag.Length + 2 <= frame.Length && Type(frame, at) is VlanTag.CustomerType or VlanTag.ServiceType; tags++)
            at += VlanTag.Length;
        return at + 2;
    }

    /// <summary>Finds it.</summary>
    /// <param name="frame">A frame, of its header or more.</param>
    public static FlowHeader Parse(ReadOnlySpan<byte> frame)
    {
        var ip = EthernetBytes(frame);
        return Type(frame, ip - 2) switch
        {
            0x0800 => V4(frame, ip),
            0x86DD => V6(frame, ip),
            _ => default,
        };
    }

    /// <summary>A number that both directions of a flow have.</summary>
    /// <param name="frame">The frame in which this was found.</param>
    public uint SymmetricHash(ReadOnlySpan<byte> frame)
    {
        ulong mixed = Protocol;
        var addresses = AddressesAt == 0 ? frame[..12] : frame.Slice(AddressesAt, AddressBytes);
        var half = addresses.Length / 2;
        for (var i = 0; i + sizeof(ushort) <= half; i += sizeof(ushort))
        {
            mixed = BitOperations.RotateLeft(mixed, 11)
                ^ (ulong)(BinaryPrimitives.ReadUInt16LittleEndian(addresses[i..]) ^ BinaryPrimitives.ReadUInt16LittleEndian(addresses[(half + i)..]));
        }

        // At the low end: a product carries upwards only, and all bits of the answer are to depend on them.
        if (PortsAt != 0)
            mixed = BitOperations.RotateLeft(mixed, 11)
                ^ (ulong)(BinaryPrimitives.ReadUInt16LittleEndian(frame[PortsAt..]) ^ BinaryPrimitives.ReadUInt16LittleEndian(frame[(PortsAt + 2)..]));
        return (uint)((mixed * 0x9E3779B97F4A7C15UL) >> 32);
    }

    private static FlowHeader V4(ReadOnlySpan<byte> frame, int ip)
    {
        if (frame.Length < ip + 20 || frame[ip] >> 4 != 4)
            return default;
        var length = (frame[ip] & 0xF) * 4;
        var protocol = frame[ip + 9];
        // A fragment has no ports, the first one among them: all of a packet go one way.
        var isFragment = (Type(frame, ip + 6) & 0x3FFF) != 0;
        var ports = ip + length;
        return new FlowHeader(ip + 12, false, !isFragment && length >= 20 && HasPorts(protocol) && ports + 4 <= frame.Length ? ports : 0, protocol);
    }

    private static FlowHeader V6(ReadOnlySpan<byte> frame, int ip)
    {
        if (frame.Length < ip + 40 || frame[ip] >> 4 != 6)
            return default;
        var protocol = frame[ip + 6];
        var at = ip + 40;
        for (var i = 0; i < MostExtensions && protocol is HopByHop or Routing or DestinationOptions && at + 2 <= frame.Length; i++)
        {
            protocol = frame[at];
            at += (frame[at + 1] + 1) * 8;
        }

        return new FlowHeader(ip + 8, true, protocol != Fragment && HasPorts(protocol) && at + 4 <= frame.Length ? at : 0, protocol);
    }

    private static bool HasPorts(byte protocol) => protocol is Tcp or Udp;

    private static ushort Type(ReadOnlySpan<byte> frame, int at) => BinaryPrimitives.ReadUInt16BigEndian(frame[at..]);
}
