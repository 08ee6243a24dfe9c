using System.Buffers.Binary;
using Virtbus.Ethernet;

namespace Virtbus.Models.VirtioNet;

/// <summary>
/// Which frames a driver wants (VIRTIO 1.3, 5.1.6.5.1 to 5.1.6.5.3). It never changes: a command makes another one, so that any thread may ask.
/// </summary>
/// <param name="Mac">The driver's own address.</param>
internal sealed record ReceiveFilter(ulong Mac)
{
    internal const int MostAddresses = 64;
    internal const int VlanCount = 4096;
    internal const int VlanWords = VlanCount / 64;
    internal const int ModeCount = 6;
    private const ulong Broadcast = 0xFFFF_FFFF_FFFF;
    private const int VlanAt = 14;

    /// <summary>Modes as bits, by the numbers of VIRTIO_NET_CTRL_RX's commands. Until a driver chooses, it gets all: it may not know how to choose.</summary>
    internal byte Modes { get; init; } = 1 << Promiscuous;

    internal const int Promiscuous = 0;
    internal const int AllMulticast = 1;
    internal const int AllUnicast = 2;
    internal const int NoMulticast = 3;
    internal const int NoUnicast = 4;
    internal const int NoBroadcast = 5;

    /// <summary>Addresses beside the driver's own; null for all, when there were too many.</summary>
    internal ulong[]? Unicast { get; init; } = [];

    /// <summary>Groups; null for all.</summary>
    internal ulong[]? Multicast { get; init; } = [];

    /// <summary>VLANs as bits.</summary>
    internal ulong[] Vlans { get; init; } = new ulong[VlanWords];

    /// <summary>Whether the driver chooses VLANs.</summary>
    internal bool FiltersVlans { get; init; }

    internal ReceiveFilter WithMode(int mode, bool on) => this with { Modes = (byte)(on ? Modes | (1 << mode) : Modes & ~(1 << mode)) };

    internal ReceiveFilter WithVlan(int vlan, bool on)
    {
        var vlans = (ulong[])Vlans.Clone();
        var bit = 1UL << (vlan & 63);
        vlans[vlan >> 6] = on ? vlans[vlan >> 6] | bit : vlans[vlan >> 6] & ~bit;
        return this with { Vlans = vlans };
    }

    /// <summary>Whether a frame is for the driver.</summary>
    internal bool Accepts(in EthernetFrame frame)
    {
        if (Is(Promiscuous))
            return true;
        if (FiltersVlans && FlowHeader.IsTagged(frame.Bytes))
        {
            var vlan = BinaryPrimitives.ReadUInt16BigEndian(frame.Bytes[VlanAt..]) & (VlanCount - 1);
            if ((Vlans[vlan >> 6] >> (vlan & 63) & 1) == 0)
                return false;
        }

        var to = frame.Destination;
        if (to == Broadcast)
            return !Is(NoBroadcast);
        if (EthernetFrame.IsMulticast(to))
            return !Is(NoMulticast) && (Is(AllMulticast) || Multicast is null || Multicast.AsSpan().Contains(to));
        return !Is(NoUnicast) && (Is(AllUnicast) || to == Mac || Unicast is null || Unicast.AsSpan().Contains(to));
    }

    private bool Is(int mode) => (Modes >> mode & 1) != 0;
}
