using System.Buffers.Binary;
using Virtbus.Ethernet;

namespace Virtbus.Transports.Tap;

/// <summary>A number that all frames of a flow have: made of the addresses and, where they stand in each frame, the ports.</summary>
internal static class FlowHash
{
    private const ushort TypeIpv4 = 0x0800;
    private const ushort TypeIpv6 = 0x86DD;
    private const ushort TypeTag = 0x8100;
    private const byte ProtocolTcp = 6;
    private const byte ProtocolUdp = 17;

    /// <summary>Makes it. The sender's own counts, when there is one.</summary>
    /// <param name="frame">The frame; valid by its length.</param>
    public static uint Of(in EthernetFrame frame)
    {
        if (frame.Offload.HashReport != 0)
            return frame.Offload.Hash;
        var bytes = frame.Bytes;
        var type = BinaryPrimitives.ReadUInt16BigEndian(bytes[12..]);
        var network = EthernetFrame.MinLength;
        if (type == TypeTag && bytes.Length >= network + 4)
        {
            type = BinaryPrimitives.ReadUInt16BigEndian(bytes[16..]);
            network += 4;
        }
        var ip = bytes[network..];
        if (type == TypeIpv4 && ip.Length >= 20)
        {
            // A later fragment has no ports, and the first one stays with it.
            var isWhole = (BinaryPrimitives.ReadUInt16BigEndian(ip[6..]) & 0x3FFF) == 0;
            return Mix(Ports(ip[9], isWhole ? ip : default, (ip[0] & 0xF) * 4), ip[12..20]);
        }
        if (type == TypeIpv6 && ip.Length >= 40)
            return Mix(Ports(ip[6], ip, 40), ip[8..40]);
        return Mix(type, bytes[..12]);
    }

    private static uint Ports(byte protocol, ReadOnlySpan<byte> ip, int header) =>
        protocol is ProtocolTcp or ProtocolUdp && ip.Length >= header + 4 ? BinaryPrimitives.ReadUInt32BigEndian(ip[header..]) : protocol;

    private static uint Mix(uint hash, ReadOnlySpan<byte> words)
    {
        for (; words.Length >= 4; words = words[4..])
            hash = (uint.RotateLeft(hash, 13) ^ BinaryPrimitives.ReadUInt32BigEndian(words)) * 0x9E3779B1;
        return hash ^ (hash >> 16);
    }
}
