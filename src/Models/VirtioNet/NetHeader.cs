using System.Buffers.Binary;
using Virtbus.Ethernet;
using Virtbus.Virtio;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;

namespace Virtbus.Models.VirtioNet;

/// <summary>
/// struct virtio_net_hdr in all its lengths (VIRTIO 1.3, 5.1.6): u8 flags, u8 gso_type, le16 hdr_len, gso_size, csum_start, csum_offset; le16 num_buffers
/// but for legacy drivers without VIRTIO_NET_F_MRG_RXBUF; le32 hash_value, le16 hash_report, le16 padding with VIRTIO_NET_F_HASH_REPORT.
/// </summary>
internal static class NetHeader
{
    internal const int MostBytes = 20;
    private const int LegacyBytes = 10;
    private const int Bytes = 12;

    /// <summary>Its length in bytes.</summary>
    internal static int SizeFor(VirtioFeatures features)
    {
        if (features.Has(VIRTIO_NET_F_HASH_REPORT))
            return MostBytes;
        return features.Has(VirtioFeatures.VIRTIO_F_VERSION_1) || features.Has(VIRTIO_NET_F_MRG_RXBUF) ? Bytes : LegacyBytes;
    }

    /// <summary>Reads what a driver leaves to the device.</summary>
    /// <param name="header">A copy; not trusted.</param>
    /// <param name="allowed">What the driver may leave.</param>
    /// <param name="length">Bytes of the frame.</param>
    /// <param name="offload">What it leaves.</param>
    /// <returns>False when the frame is not to be sent: it leaves what it may not, or names bytes that the frame does not have.</returns>
    internal static bool TryRead(ReadOnlySpan<byte> header, OffloadKinds allowed, int length, out FrameOffload offload)
    {
        // The other flags are the device's, and are ignored (5.1.6.2.2).
        var flags = (FrameFlags)header[0] & FrameFlags.NeedsChecksum;
        var segmentation = (SegmentationType)header[1];
        offload = default;
        if (flags == FrameFlags.None)
            // Every segment has a checksum of its own, so there is none to be cut without (5.1.6.2.1).
            return segmentation == SegmentationType.None;
        var start = BinaryPrimitives.ReadUInt16LittleEndian(header[6..]);
        var at = BinaryPrimitives.ReadUInt16LittleEndian(header[8..]);
        if ((allowed & OffloadKinds.Checksum) == OffloadKinds.None || start + at + sizeof(ushort) > length)
            return false;
        if (segmentation == SegmentationType.None)
        {
            offload = new FrameOffload(flags, segmentation, 0, 0, start, at, 0, 0);
            return true;
        }

        var size = BinaryPrimitives.ReadUInt16LittleEndian(header[4..]);
        if (!IsAllowed(segmentation, allowed) || size == 0)
            return false;
        var headers = Math.Min(BinaryPrimitives.ReadUInt16LittleEndian(header[2..]), (ushort)Math.Min(length, ushort.MaxValue));
        offload = new FrameOffload(flags, segmentation, headers, size, start, at, 0, 0);
        return true;
    }

    /// <summary>Whether a driver leaves it to the device to cut the frame.</summary>
    /// <param name="header">A copy; not trusted.</param>
    internal static bool IsCut(ReadOnlySpan<byte> header) => header[1] != (byte)SegmentationType.None;

    /// <summary>Writes it for a received frame.</summary>
    /// <param name="header">Where to, all of it.</param>
    /// <param name="offload">What the frame's sender left.</param>
    /// <param name="flags">What of the flags the driver takes.</param>
    /// <param name="buffers">How many buffers the frame takes.</param>
    internal static void Write(Span<byte> header, in FrameOffload offload, FrameFlags flags, int buffers)
    {
        header.Clear();
        if (header.Length > LegacyBytes)
            BinaryPrimitives.WriteUInt16LittleEndian(header[10..], (ushort)buffers);
        if (offload.IsNone)
            return;
        offload.WriteTo(header, flags);
        if (header.Length == MostBytes)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(header[12..], offload.Hash);
            BinaryPrimitives.WriteUInt16LittleEndian(header[16..], offload.HashReport);
        }
    }

    private static bool IsAllowed(SegmentationType type, OffloadKinds allowed) => type switch
    {
        SegmentationType.TcpV4 => (allowed & OffloadKinds.TcpV4) != OffloadKinds.None,
        SegmentationType.TcpV6 => (allowed & OffloadKinds.TcpV6) != OffloadKinds.None,
        SegmentationType.TcpV4 | SegmentationType.Ecn => (allowed & OffloadKinds.TcpV4) != OffloadKinds.None && (allowed & OffloadKinds.Ecn) != OffloadKinds.None,
        SegmentationType.TcpV6 | SegmentationType.Ecn => (allowed & OffloadKinds.TcpV6) != OffloadKinds.None && (allowed & OffloadKinds.Ecn) != OffloadKinds.None,
        SegmentationType.UdpDatagrams => (allowed & OffloadKinds.UdpV4) != OffloadKinds.None,
        _ => false,
    };
}
