using Virtbus.Ethernet;
using Virtbus.Platform;

namespace Virtbus.Models.VirtioNet;

/// <summary>What a virtio network device is to be.</summary>
/// <param name="Mac">Its address, 48 bits: no group's, and not 0.</param>
public sealed record VirtioNetOptions(ulong Mac)
{
    private const int LeastMtu = 68;
    private const int MostMtu = EthernetFrame.MaxLength - 22;

    /// <summary>Queue pairs, 1 to <see cref="VirtioNetConfig.MostPairs"/>.</summary>
    public int QueuePairs { get; init; } = 1;

    /// <summary>The most bytes of a frame behind its header, 68 to 9000.</summary>
    public int Mtu { get; init; } = 1500;

    /// <summary>Speed in Mbit/s, up to 0x7fffffff; null for unknown.</summary>
    public uint? Speed { get; init; }

    /// <summary>Whether both sides send at the same time; null for unknown.</summary>
    public bool? IsFullDuplex { get; init; }

    /// <summary>The largest queue size, a power of two.</summary>
    public int QueueSize { get; init; } = 256;

    /// <summary>Whether VIRTIO_F_RING_PACKED is offered.</summary>
    public bool Packed { get; init; }

    /// <summary>Whether checksums and segments may be left to the device, and are left to its driver.</summary>
    public bool Offloads { get; init; } = true;

    /// <summary>The VLAN that its port gives access to, 1 to 4094; 0 for a trunk.</summary>
    public ushort Vlan { get; init; }

    /// <summary>Checks them.</summary>
    /// <exception cref="VirtbusException">EINVAL: one is out of bounds.</exception>
    internal VirtioNetOptions Checked(string name)
    {
        if (Mac == 0 || Mac >> 48 != 0 || EthernetFrame.IsMulticast(Mac))
            throw Wrong(name, $"address {Mac:x12}", "an address of 48 bits that is no group's and not 0");
        if (QueuePairs is < 1 or > VirtioNetConfig.MostPairs)
            throw Wrong(name, $"{QueuePairs} queue pairs", $"1 to {VirtioNetConfig.MostPairs}");
        if (Mtu is < LeastMtu or > MostMtu)
            throw Wrong(name, $"an MTU of {Mtu}", $"{LeastMtu} to {MostMtu}");
        if (Vlan > SwitchPort.MaxVlan)
            throw Wrong(name, $"VLAN {Vlan}", $"1 to {SwitchPort.MaxVlan}, or 0 for none");
        if (Speed > int.MaxValue)
            throw Wrong(name, $"a speed of {Speed} Mbit/s", $"at most {int.MaxValue}, or none");
        return this;
    }

    private static VirtbusException Wrong(string name, string what, string choose) =>
        new(Errno.EINVAL, $"Network device '{name}' cannot have {what}. Choose {choose}.");
}
