using System.Buffers.Binary;

namespace Virtbus.Ethernet;

/// <summary>
/// Cuts a frame that its sender left uncut into those that a wire takes, one after the other in the same memory. What the headers say is read
/// once, from the copy: the frame itself may lie in memory that its sender still writes to.
/// </summary>
internal ref struct FrameCutter
{
    /// <summary>Bytes of memory that it needs.</summary>
    public const int BufferSize = EthernetFrame.MaxLength;

    // TCP's flags, in the byte of its header that they stand in (RFC 9293, 3.1).
    private const int TcpFlags = 13;
    private const int Fin = 1;
    private const int Push = 8;
    private const int Cwr = 0x80;
    private const int Ipv6Header = 40;

    private readonly Span<byte> _buffer;
    private readonly FrameLayout _layout;
    private readonly FrameOffload _known;
    private readonly int _transport;
    private readonly int _segmentSize;
    private readonly ushort _pseudoSum;
    private readonly uint _sequence;
    private readonly ushort _identification;
    private readonly byte _flags;
    private ReadOnlySpan<byte> _payload;
    private int _sent;
    private ushort _index;
    private bool _hasMore;

    private FrameCutter(Span<byte> buffer, FrameLayout layout, FrameOffload offload, ReadOnlySpan<byte> payload)
    {
        _buffer = buffer;
        _layout = layout;
        _known = new FrameOffload { HashReport = offload.HashReport, Hash = offload.Hash };
        _transport = offload.ChecksumStart;
        _segmentSize = offload.SegmentSize;
        _payload = payload;
        _hasMore = true;
        var transport = buffer[_transport..];
        // The sender's sum is that of the pseudo header with the length of all that is to be cut (VIRTIO 1.2, 5.1.6.2). The addresses in it need not be
        // those of the header: with a routing header the last one counts (RFC 8200, 8.1). So the length is taken out, and nothing else.
        var whole = (ushort)(layout.HeaderLength + payload.Length - _transport);
        _pseudoSum = InternetChecksum.Fold((uint)(BinaryPrimitives.ReadUInt16BigEndian(transport[offload.ChecksumOffset..]) + (ushort)~whole));
        if (layout.IsTcp)
        {
            _sequence = BinaryPrimitives.ReadUInt32BigEndian(transport[4..]);
            _flags = transport[TcpFlags];
        }
        if (!layout.IsV6)
            _identification = BinaryPrimitives.ReadUInt16BigEndian(buffer[(layout.Network + 4)..]);
    }

    /// <summary>Begins with a frame.</summary>
    /// <param name="buffer">Memory of <see cref="BufferSize"/> bytes, which the pieces lie in.</param>
    /// <param name="frame">The frame; its bytes are read until the last piece.</param>
    /// <param name="edit">What becomes of its VLAN tag.</param>
    /// <param name="cutter">The rest of the work.</param>
    /// <returns>False when its headers are not, or no longer, what its offload data says.</returns>
    public static bool TryBegin(Span<byte> buffer, in EthernetFrame frame, scoped in TagEdit edit, out FrameCutter cutter)
    {
        cutter = default;
        var offload = edit.Adjust(frame.Offload);
        var length = frame.Length + edit.Growth;
        var head = Math.Min(Math.Min(length, offload.ChecksumStart + FrameLayout.MaxTransportHeader), buffer.Length);
        edit.CopyTo(frame.Bytes, buffer[..head]);
        if (!FrameLayout.TryRead(buffer[..head], length, offload, 0, out var layout) || layout.HeaderLength == 0)
            return false;
        cutter = new FrameCutter(buffer, layout, offload, frame.Bytes[(layout.HeaderLength - edit.Growth)..]);
        return true;
    }

    /// <summary>Makes the next piece.</summary>
    /// <param name="piece">The piece; valid until the next one.</param>
    /// <returns>False when there is none.</returns>
    public bool TryNext(out EthernetFrame piece)
    {
        piece = default;
        if (!_hasMore)
            return false;
        var payload = _payload[..Math.Min(_segmentSize, _payload.Length)];
        _payload = _payload[payload.Length..];
        _hasMore = !_payload.IsEmpty;
        var length = _layout.HeaderLength + payload.Length;
        payload.CopyTo(_buffer[_layout.HeaderLength..]);
        var network = _buffer[_layout.Network..length];
        if (_layout.IsV6)
        {
            BinaryPrimitives.WriteUInt16BigEndian(network[4..], (ushort)(network.Length - Ipv6Header));
        }
        else
        {
            BinaryPrimitives.WriteUInt16BigEndian(network[2..], (ushort)network.Length);
            BinaryPrimitives.WriteUInt16BigEndian(network[4..], (ushort)(_identification + _index));
            BinaryPrimitives.WriteUInt16BigEndian(network[10..], 0);
            BinaryPrimitives.WriteUInt16BigEndian(network[10..], InternetChecksum.Of(network[..(_transport - _layout.Network)]));
        }
        var transport = _buffer[_transport..length];
        if (_layout.IsTcp)
        {
            BinaryPrimitives.WriteUInt32BigEndian(transport[4..], _sequence + (uint)_sent);
            // The end is told once, with the last; that the window was reduced, with the first (RFC 3168, 6.1.2).
            var cleared = (_hasMore ? Fin | Push : 0) | (_index > 0 ? Cwr : 0);
            transport[TcpFlags] = (byte)(_flags & ~cleared);
        }
        else
        {
            BinaryPrimitives.WriteUInt16BigEndian(transport[4..], (ushort)transport.Length);
        }
        var checksum = _layout.IsTcp ? FrameLayout.TcpChecksum : InternetChecksum.UdpOffset;
        BinaryPrimitives.WriteUInt16BigEndian(transport[checksum..], InternetChecksum.Fold((uint)(_pseudoSum + transport.Length)));
        InternetChecksum.Put(transport, checksum);
        _sent += payload.Length;
        _index++;
        piece = new EthernetFrame(_buffer[..length], _known);
        return true;
    }
}
