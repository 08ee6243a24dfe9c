using System.Runtime.InteropServices;
using Virtbus.Ethernet;

namespace Virtbus.Models.VirtioNet;

/// <summary>The hash of a received frame's flow as a driver asked for it (VIRTIO 1.3, 5.1.6.4.3). It never changes.</summary>
internal sealed class FlowHash
{
    private const int V6Types = 3;
    private readonly byte[] _key = new byte[VirtioNetConfig.MostKeyBytes];
    private readonly ToeplitzHash _toeplitz;

    /// <summary>Makes one.</summary>
    /// <param name="types">Which hashes, bits of VIRTIO_NET_HASH_TYPE_*.</param>
    /// <param name="key">Up to 40 bytes; the rest is 0.</param>
    internal FlowHash(uint types, ReadOnlySpan<byte> key)
    {
        Types = types;
        key.CopyTo(_key);
        _toeplitz = new ToeplitzHash(_key);
    }

    internal uint Types { get; }

    internal ReadOnlySpan<byte> Key => _key;

    /// <summary>The hash of a frame, and what it was made of, VIRTIO_NET_HASH_REPORT_*; 0 for none.</summary>
    internal Value Of(ReadOnlySpan<byte> frame)
    {
        if (Types == 0)
            return default;
        var flow = FlowHeader.Parse(frame);
        if (flow.AddressesAt == 0)
            return default;
        // VIRTIO_NET_HASH_TYPE_X is bit n - 1 of VIRTIO_NET_HASH_REPORT_X: IP 1, TCP 2, UDP 3, and the same of IPv6 behind them.
        var first = flow.IsV6 ? V6Types : 0;
        var addresses = frame.Slice(flow.AddressesAt, flow.AddressBytes);
        var whole = flow.PortsAt == 0 ? 0 : first + (flow.Protocol == FlowHeader.Tcp ? 2 : 3);
        if (whole != 0 && (Types >> (whole - 1) & 1) != 0)
            return new Value((ushort)whole, _toeplitz.Of(addresses, frame.Slice(flow.PortsAt, 4)));
        return (Types >> first & 1) != 0 ? new Value((ushort)(first + 1), _toeplitz.Of(addresses, [])) : default;
    }

    [StructLayout(LayoutKind.Auto)]
    internal readonly record struct Value(ushort Report, uint Hash);
}
