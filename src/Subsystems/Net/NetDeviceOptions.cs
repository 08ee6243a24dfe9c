using Virtbus.Ethernet;

namespace Virtbus.Subsystems.Net;

/// <summary>What a driver says of an interface that it registers.</summary>
/// <param name="Address">The Ethernet address, 48 bits.</param>
/// <param name="PhysicalPortName">The port's name on the adapter, for example <c>p0</c>.</param>
/// <param name="MaxMtu">The largest MTU that can be set, in bytes.</param>
/// <param name="Carrier">Whether the link carries now.</param>
public sealed record NetDeviceOptions(ulong Address, string PhysicalPortName, int MaxMtu = 9000, bool Carrier = true)
{
    private const int StandardMtu = 1500;

    /// <summary>The MTU at first, 1,500 where it is not said; the largest one where that is less.</summary>
    public int Mtu { get; init; } = StandardMtu;

    /// <summary>How many receive and transmit queues there are, of each kind; the driver may use fewer (<see cref="NetDevice.SetQueues"/>).</summary>
    public int Queues { get; init; } = 1;

    /// <summary>What senders may leave to the hardware. Of the rest the subsystem does it. Without <see cref="OffloadKinds.Checksum"/> nothing counts.</summary>
    public OffloadKinds TransmitOffloads { get; init; }

    /// <summary>What the hardware leaves to receivers; those that do not take it get it done by the subsystem.</summary>
    public OffloadKinds ReceiveOffloads { get; init; }

    /// <summary>Whether the hardware drops frames of VLANs that nobody asked for, see <see cref="INetOps.SetVlanAsync"/>.</summary>
    public bool FiltersVlans { get; init; }
}
