using System.Buffers.Binary;
using Virtbus.Ethernet;

namespace Virtbus.Tests.Ethernet;

/// <summary>
/// A frame of TCP or UDP that is made by hand, and the plain reference that what the switch makes of it is held against: it knows what it put where,
/// and sums words one by one.
/// </summary>
internal sealed record TransportFrame(bool IsV6, bool IsTcp, int Tags = 0, int Options = 0, int Payload = 4000, int SegmentSize = 1400, byte Flags = 0x18)
{
    public const uint Sequence = 0xFFFFFF00;
    public const ushort Identification = 0xFFFE;

    public int Network => 14 + (4 * Tags);

    public int Transport => Network + (IsV6 ? 40 : 20) + Options;

    public int Headers => Transport + (IsTcp ? 32 : 8);

    public byte Protocol => IsTcp ? (byte)6 : (byte)17;

    public FrameOffload Offload => new(
        FrameFlags.NeedsChecksum,
        IsTcp ? (IsV6 ? SegmentationType.TcpV6 : SegmentationType.TcpV4) : SegmentationType.UdpDatagrams,
        (ushort)Headers,
        (ushort)SegmentSize,
        (ushort)Transport,
        (ushort)(IsTcp ? 16 : 6),
        3,
        0xABCD);

    public OffloadKinds Kind => (IsV6, IsTcp) switch
    {
        (false, true) => OffloadKinds.TcpV4,
        (true, true) => OffloadKinds.TcpV6,
        (false, false) => OffloadKinds.UdpV4,
        _ => OffloadKinds.UdpV6,
    };

    public byte[] Build()
    {
        var frame = new byte[Headers + Payload];
        byte[] addresses = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        addresses.CopyTo(frame, 0);
        for (var i = 0; i < Tags; i++)
        {
            BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(12 + (4 * i)), i == Tags - 1 ? (ushort)0x8100 : (ushort)0x88A8);
            BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(14 + (4 * i)), (ushort)(100 + i));
        }
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(Network - 2), IsV6 ? (ushort)0x86DD : (ushort)0x0800);
        var ip = frame.AsSpan(Network);
        if (IsV6)
        {
            ip[0] = 0x60;
            BinaryPrimitives.WriteUInt16BigEndian(ip[4..], (ushort)(ip.Length - 40));
            ip[6] = Options > 0 ? (byte)60 : Protocol;
            for (var i = 8; i < 40; i++)
                ip[i] = (byte)(i * 7);
            // Each header of options has 2,048 bytes at most.
            for (var (at, rest) = (40, Options); rest > 0;)
            {
                var size = Math.Min(rest, 2048);
                rest -= size;
                ip[at] = rest > 0 ? (byte)60 : Protocol;
                ip[at + 1] = (byte)((size / 8) - 1);
                at += size;
            }
        }
        else
        {
            ip[0] = (byte)(0x45 + (Options / 4));
            BinaryPrimitives.WriteUInt16BigEndian(ip[2..], (ushort)ip.Length);
            BinaryPrimitives.WriteUInt16BigEndian(ip[4..], Identification);
            ip[6] = 0x40;
            ip[9] = Protocol;
            for (var i = 12; i < 20; i++)
                ip[i] = (byte)(i * 7);
            ip[20..(20 + Options)].Fill(1);
            BinaryPrimitives.WriteUInt16BigEndian(ip[10..], (ushort)~Sum(ip[..(20 + Options)], 0));
        }
        var transport = frame.AsSpan(Transport);
        if (IsTcp)
        {
            BinaryPrimitives.WriteUInt32BigEndian(transport[4..], Sequence);
            transport[12] = 0x80;
            transport[13] = Flags;
        }
        else
        {
            BinaryPrimitives.WriteUInt16BigEndian(transport[4..], (ushort)transport.Length);
        }
        for (var i = 0; i < Payload; i++)
            frame[Headers + i] = (byte)(i * 31 + (i >> 8));
        BinaryPrimitives.WriteUInt16BigEndian(transport[Offload.ChecksumOffset..], PseudoSum(frame, transport.Length));
        return frame;
    }

    /// <summary>Holds a frame against what it has to be: this one's piece from a place of the payload on.</summary>
    public void Check(byte[] piece, int from, int length, int index, int grown = 0)
    {
        var (network, transport, headers) = (Network + grown, Transport + grown, Headers + grown);
        Assert.Equal(headers + length, piece.Length);
        Assert.Equal(Build().AsSpan(Headers + from, length), piece.AsSpan(headers));
        var ip = piece.AsSpan(network);
        if (IsV6)
        {
            Assert.Equal(ip.Length - 40, BinaryPrimitives.ReadUInt16BigEndian(ip[4..]));
        }
        else
        {
            Assert.Equal(ip.Length, BinaryPrimitives.ReadUInt16BigEndian(ip[2..]));
            Assert.Equal((ushort)(Identification + index), BinaryPrimitives.ReadUInt16BigEndian(ip[4..]));
            Assert.Equal(0xFFFF, Sum(ip[..(transport - network)], 0));
        }
        var rest = piece.AsSpan(transport);
        if (IsTcp)
            Assert.Equal(unchecked(Sequence + (uint)from), BinaryPrimitives.ReadUInt32BigEndian(rest[4..]));
        else
            Assert.Equal(rest.Length, BinaryPrimitives.ReadUInt16BigEndian(rest[4..]));
        Assert.Equal(0xFFFF, Sum(rest, PseudoSum(piece, rest.Length, network)));
    }

    public ushort PseudoSum(ReadOnlySpan<byte> frame, int length) => PseudoSum(frame, length, Network);

    /// <summary>The ones' complement sum of big-endian words.</summary>
    public static ushort Sum(ReadOnlySpan<byte> bytes, ushort start)
    {
        uint sum = start;
        for (var i = 0; i < bytes.Length; i++)
        {
            sum += (uint)(i % 2 == 0 ? bytes[i] << 8 : bytes[i]);
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        return (ushort)sum;
    }

    // RFC 9293, 3.1; RFC 8200, 8.1.
    private ushort PseudoSum(ReadOnlySpan<byte> frame, int length, int network) =>
        Sum([0, Protocol, (byte)(length >> 8), (byte)length], Sum(IsV6 ? frame[(network + 8)..(network + 40)] : frame[(network + 12)..(network + 20)], 0));
}
