using Virtbus.Ethernet;
using Virtbus.Virtio;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;

namespace Virtbus.Models.VirtioNet;

/// <summary>Which work on frames a driver leaves to the device, which it takes over, and how a feature says so.</summary>
internal static class NetOffloads
{
    /// <summary>The features by which a driver says what it takes; they are the bits of VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET too (5.1.6.5.8).</summary>
    internal const ulong GuestBits = (1UL << VIRTIO_NET_F_GUEST_CSUM) | (1UL << VIRTIO_NET_F_GUEST_TSO4) | (1UL << VIRTIO_NET_F_GUEST_TSO6)
        | (1UL << VIRTIO_NET_F_GUEST_ECN) | (1UL << VIRTIO_NET_F_GUEST_USO4) | (1UL << VIRTIO_NET_F_GUEST_USO6);

    /// <summary>What a driver may leave to the device.</summary>
    internal static OffloadKinds Allowed(VirtioFeatures features) => !features.Has(VIRTIO_NET_F_CSUM) ? OffloadKinds.None :
        OffloadKinds.Checksum
        | If(features.Has(VIRTIO_NET_F_HOST_TSO4), OffloadKinds.TcpV4)
        | If(features.Has(VIRTIO_NET_F_HOST_TSO6), OffloadKinds.TcpV6)
        | If(features.Has(VIRTIO_NET_F_HOST_ECN), OffloadKinds.Ecn)
        | If(features.Has(VIRTIO_NET_F_HOST_USO), OffloadKinds.UdpV4 | OffloadKinds.UdpV6);

    /// <summary>What a driver takes over, by the bits of <see cref="GuestBits"/>. A frame to be cut has a checksum to be put in, so without that there is none.</summary>
    internal static OffloadKinds Taken(ulong bits)
    {
        var features = new VirtioFeatures(bits);
        return !features.Has(VIRTIO_NET_F_GUEST_CSUM) ? OffloadKinds.None :
            OffloadKinds.Checksum
            | If(features.Has(VIRTIO_NET_F_GUEST_TSO4), OffloadKinds.TcpV4)
            | If(features.Has(VIRTIO_NET_F_GUEST_TSO6), OffloadKinds.TcpV6)
            | If(features.Has(VIRTIO_NET_F_GUEST_ECN), OffloadKinds.Ecn)
            | If(features.Has(VIRTIO_NET_F_GUEST_USO4), OffloadKinds.UdpV4)
            | If(features.Has(VIRTIO_NET_F_GUEST_USO6), OffloadKinds.UdpV6);
    }

    /// <summary>Whether all that a frame leaves is taken over.</summary>
    internal static bool AreTaken(in EthernetFrame frame, OffloadKinds takes) => Needed(frame) is { } needed && (needed & ~takes) == OffloadKinds.None;

    /// <summary>What whoever takes a frame has to take over; null for what nobody does.</summary>
    private static OffloadKinds? Needed(in EthernetFrame frame)
    {
        var offload = frame.Offload;
        var needed = (offload.Flags & FrameFlags.NeedsChecksum) != FrameFlags.None ? OffloadKinds.Checksum : OffloadKinds.None;
        switch (offload.Segmentation & ~SegmentationType.Ecn)
        {
            case SegmentationType.None:
                return needed;
            case SegmentationType.TcpV4:
                needed |= OffloadKinds.TcpV4;
                break;
            case SegmentationType.TcpV6:
                needed |= OffloadKinds.TcpV6;
                break;
            case SegmentationType.UdpDatagrams:
                needed |= FlowHeader.Parse(frame.Bytes).IsV6 ? OffloadKinds.UdpV6 : OffloadKinds.UdpV4;
                break;
            default:
                return null;
        }

        return needed | If((offload.Segmentation & SegmentationType.Ecn) != SegmentationType.None, OffloadKinds.Ecn);
    }

    private static OffloadKinds If(bool condition, OffloadKinds kinds) => condition ? kinds : OffloadKinds.None;
}
