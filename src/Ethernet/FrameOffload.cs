using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace Virtbus.Ethernet;

/// <summary>
/// What the sender of a frame leaves to whoever takes it, and what is known of it. The fields are those of struct virtio_net_hdr_v1_hash
/// (VIRTIO 1.2, 5.1.6), in host order. They come from guests: whoever uses an offset checks it against the frame.
/// </summary>
/// <param name="Flags">What of the rest counts.</param>
/// <param name="Segmentation">How the frame has to be cut before it fits a wire.</param>
/// <param name="HeaderLength">Bytes of all headers, for a frame to be cut; a hint.</param>
/// <param name="SegmentSize">Bytes of payload in a segment; 0 for a frame that is whole.</param>
/// <param name="ChecksumStart">First byte that the checksum covers.</param>
/// <param name="ChecksumOffset">Where the checksum stands, from <paramref name="ChecksumStart"/> on.</param>
/// <param name="HashReport">What the hash was made of (5.1.6.4.4); 0 for no hash.</param>
/// <param name="Hash">The hash of the flow.</param>
[StructLayout(LayoutKind.Auto)]
public readonly record struct FrameOffload(
    FrameFlags Flags,
    SegmentationType Segmentation,
    ushort HeaderLength,
    ushort SegmentSize,
    ushort ChecksumStart,
    ushort ChecksumOffset,
    ushort HashReport,
    uint Hash)
{
    /// <summary>Reads struct virtio_net_hdr (VIRTIO 1.3, 5.1.6), in little endian, up to csum_offset. Nothing is checked.</summary>
    /// <param name="header">Ten bytes or more, which do not change meanwhile.</param>
    public static FrameOffload Read(ReadOnlySpan<byte> header) => new(
        (FrameFlags)header[0],
        (SegmentationType)header[1],
        BinaryPrimitives.ReadUInt16LittleEndian(header[2..]),
        BinaryPrimitives.ReadUInt16LittleEndian(header[4..]),
        BinaryPrimitives.ReadUInt16LittleEndian(header[6..]),
        BinaryPrimitives.ReadUInt16LittleEndian(header[8..]),
        0,
        0);

    /// <summary>Writes it as struct virtio_net_hdr (VIRTIO 1.3, 5.1.6), in little endian, up to csum_offset; what has no place or does not count stays as it is.</summary>
    /// <param name="header">Ten bytes or more, 0.</param>
    /// <param name="flags">Which flags whoever reads it takes.</param>
    public void WriteTo(Span<byte> header, FrameFlags flags)
    {
        header[0] = (byte)(Flags & flags);
        if (Segmentation != SegmentationType.None)
        {
            header[1] = (byte)Segmentation;
            BinaryPrimitives.WriteUInt16LittleEndian(header[2..], HeaderLength);
            BinaryPrimitives.WriteUInt16LittleEndian(header[4..], SegmentSize);
        }
        if ((Flags & flags & FrameFlags.NeedsChecksum) == FrameFlags.None)
            return;
        BinaryPrimitives.WriteUInt16LittleEndian(header[6..], ChecksumStart);
        BinaryPrimitives.WriteUInt16LittleEndian(header[8..], ChecksumOffset);
    }

    /// <summary>Whether there is nothing to do and nothing known: no other field counts then.</summary>
    public bool IsNone => Flags == FrameFlags.None && Segmentation == SegmentationType.None && HashReport == 0;
}
