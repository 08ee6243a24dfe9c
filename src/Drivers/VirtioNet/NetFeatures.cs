using Virtbus.Ethernet;
using Virtbus.Virtio;
using static Virtbus.Models.VirtioNet.VirtioNetConfig;

namespace Virtbus.Drivers.VirtioNet;

/// <summary>Which features the driver takes, which of them go without another one (VIRTIO 1.3, 5.1.3.1), and what of a frame they leave to the other side.</summary>
internal static class NetFeatures
{
    // By command of the control queue.
    private static readonly int[] OfControl = [VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_MQ, VIRTIO_NET_F_CTRL_MAC_ADDR];
    private static readonly int[] OfDevice = [VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_USO];
    private static readonly int[] OfDriver = [VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6];

    internal static VirtioFeatures All { get; } = VirtioFeatures.Of(
    [
        VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_MTU, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_STATUS, VIRTIO_NET_F_CTRL_VQ,
        .. OfControl, .. OfDevice, .. OfDriver,
    ]);

    /// <summary>Takes those out that go without another one.</summary>
    internal static VirtioFeatures Settle(VirtioFeatures features)
    {
        if (!features.Has(VIRTIO_NET_F_CTRL_VQ))
            features = Without(features, OfControl);
        if (!features.Has(VIRTIO_NET_F_CSUM))
            features = Without(features, OfDevice);
        if (!features.Has(VIRTIO_NET_F_HOST_TSO4) && !features.Has(VIRTIO_NET_F_HOST_TSO6))
            features = features.Without(VIRTIO_NET_F_HOST_ECN);
        // Without buffers that are put together each one would have to hold 64 KiB (5.1.6.3.1).
        if (!features.Has(VIRTIO_NET_F_GUEST_CSUM) || !features.Has(VIRTIO_NET_F_MRG_RXBUF))
            features = Without(features, OfDriver);
        if (!features.Has(VIRTIO_NET_F_GUEST_TSO4) && !features.Has(VIRTIO_NET_F_GUEST_TSO6))
            features = features.Without(VIRTIO_NET_F_GUEST_ECN);
        return features;
    }

    /// <summary>What may be left to the device.</summary>
    internal static OffloadKinds Transmit(Func<int, bool> has) => Of(has, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_HOST_USO);

    /// <summary>What the device leaves to the driver.</summary>
    internal static OffloadKinds Receive(Func<int, bool> has) =>
        Of(has, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6);

    private static OffloadKinds Of(Func<int, bool> has, int checksum, int tcp4, int tcp6, int ecn, int udp4, int udp6)
    {
        return If(checksum, OffloadKinds.Checksum) | If(tcp4, OffloadKinds.TcpV4) | If(tcp6, OffloadKinds.TcpV6) | If(ecn, OffloadKinds.Ecn)
            | If(udp4, OffloadKinds.UdpV4) | If(udp6, OffloadKinds.UdpV6);

        OffloadKinds If(int feature, OffloadKinds kind) => has(feature) ? kind : OffloadKinds.None;
    }

    private static VirtioFeatures Without(VirtioFeatures features, int[] bits) => bits.Aggregate(features, static (all, bit) => all.Without(bit));
}
