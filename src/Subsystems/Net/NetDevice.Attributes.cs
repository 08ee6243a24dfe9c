using System.Globalization;
using System.Text;
using Virtbus.Core;
using Virtbus.Ethernet;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Net;

/// <content>The attributes of an interface, with Linux's names; features by the names that <c>ethtool -k</c> has.</content>
public sealed partial class NetDevice
{
    private const OffloadKinds Tcp = OffloadKinds.TcpV4 | OffloadKinds.TcpV6 | OffloadKinds.Ecn;
    private const OffloadKinds Udp = OffloadKinds.UdpV4 | OffloadKinds.UdpV6;

    internal static readonly AttributeGroup[] Groups =
    [
        new(
            new ObjectAttribute<NetDevice>("addr_assign_type", d => d.Address == d._ownAddress ? "0" : "3"),
            new ObjectAttribute<NetDevice>("addr_len", _ => "6"),
            new ObjectAttribute<NetDevice>("address", d => FormatAddress(d.Address), (d, value, _) => d.SetAddressAsync(ParseAddress(d.DevPath + "/address", value))),
            new ObjectAttribute<NetDevice>("broadcast", _ => "ff:ff:ff:ff:ff:ff"),
            new ObjectAttribute<NetDevice>("carrier", d => d._carrier ? "1" : "0"),
            new ObjectAttribute<NetDevice>("carrier_changes", d => $"{d._carrierChanges}"),
            new ObjectAttribute<NetDevice>("carrier_down_count", d => $"{(d._carrierChanges + (d._carrier ? 0 : 1)) / 2}"),
            new ObjectAttribute<NetDevice>("carrier_up_count", d => $"{(d._carrierChanges + (d._carrier ? 1 : 0)) / 2}"),
            new ObjectAttribute<NetDevice>("dev_id", _ => "0x0"),
            new ObjectAttribute<NetDevice>("dev_port", _ => "0"),
            new ObjectAttribute<NetDevice>("dormant", _ => "0"),
            // No hardware of ours has a speed.
            new ObjectAttribute<NetDevice>("duplex", _ => "unknown"),
            new ObjectAttribute<NetDevice>("ifalias", d => d._alias, static (d, value, _) => d.SetAlias(value), isString: true),
            new ObjectAttribute<NetDevice>("ifindex", d => $"{d.Index}"),
            new ObjectAttribute<NetDevice>("iflink", d => $"{d.Index}"),
            new ObjectAttribute<NetDevice>("link_mode", _ => "0"),
            new ObjectAttribute<NetDevice>("mtu", d => $"{d._mtu}", (d, value, _) => d.SetMtu(value)),
            new ObjectAttribute<NetDevice>("operstate", d => !d.IsUp || !d._carrier ? "down" : "up"),
            // By the hardware's place, the same at each start (NET_NAME_PREDICTABLE).
            new ObjectAttribute<NetDevice>("name_assign_type", _ => "2"),
            // IFF_UP, IFF_BROADCAST, IFF_PROMISC and IFF_MULTICAST.
            new ObjectAttribute<NetDevice>("flags", d => $"0x{(d._up ? 1 : 0) | 2 | (d.IsPromiscuous ? 0x100 : 0) | 0x1000:x}", (d, value, _) => d.SetFlagsAsync(value)),
            new ObjectAttribute<NetDevice>("phys_port_name", d => d.PhysicalPortName),
            new ObjectAttribute<NetDevice>("proto_down", _ => "0"),
            new ObjectAttribute<NetDevice>("speed", _ => "-1"),
            // Nothing waits before the driver's queues; it is what an Ethernet interface of Linux says.
            new ObjectAttribute<NetDevice>("tx_queue_len", _ => "1000"),
            // ARPHRD_ETHER.
            new ObjectAttribute<NetDevice>("type", _ => "1"),
            // Not of Linux, where a VLAN is an interface.
            new ObjectAttribute<NetDevice>("vlans", d => string.Join(' ', d.Vlans), (d, value, _) => d.SetVlansAsync(ParseVlans(d.DevPath + "/vlans", value)), d => d.FiltersVlans)),
        new(
            "features",
            Feature("rx-checksum", isTransmit: false, OffloadKinds.Checksum),
            Feature("rx-gro-hw", isTransmit: false, Tcp | Udp),
            new ObjectAttribute<NetDevice>("rx-vlan-filter", d => d.FiltersVlans ? "on [fixed]" : "off [fixed]"),
            Feature("tx-checksum-ip-generic", isTransmit: true, OffloadKinds.Checksum),
            // What the hardware does not cut is cut here.
            new ObjectAttribute<NetDevice>("tx-generic-segmentation", _ => "on [fixed]"),
            Feature("tx-tcp-ecn-segmentation", isTransmit: true, OffloadKinds.Ecn),
            Feature("tx-tcp-segmentation", isTransmit: true, OffloadKinds.TcpV4),
            Feature("tx-tcp6-segmentation", isTransmit: true, OffloadKinds.TcpV6),
            Feature("tx-udp-segmentation", isTransmit: true, Udp)),
        AttributeGroup.OfParts<NetDevice, object>(
            "queues",
            d => Enumerable.Range(0, d._queues).SelectMany(i => new[] { ($"rx-{i}", (object)d._receive[i]), ($"tx-{i}", d._transmit[i]) }),
            new ObjectAttribute<object>("bytes", s => $"{Of(s).ReceivedBytes + Of(s).TransmittedBytes}"),
            new ObjectAttribute<object>("dropped", s => $"{Of(s).ReceiveDropped + Of(s).TransmitDropped}"),
            new ObjectAttribute<object>("errors", s => $"{Of(s).ReceiveErrors}", null, static s => s is ReceiveSide),
            new ObjectAttribute<object>("packets", s => $"{Of(s).ReceivedFrames + Of(s).TransmittedFrames}")),
        new(
            "statistics",
            new ObjectAttribute<NetDevice>("rx_bytes", d => $"{d.Statistics.ReceivedBytes}"),
            new ObjectAttribute<NetDevice>("rx_dropped", d => $"{d.Statistics.ReceiveDropped}"),
            new ObjectAttribute<NetDevice>("rx_errors", d => $"{d.Statistics.ReceiveErrors}"),
            new ObjectAttribute<NetDevice>("rx_frame_errors", d => $"{d.Statistics.ReceiveFrameErrors}"),
            new ObjectAttribute<NetDevice>("rx_length_errors", d => $"{d.Statistics.ReceiveLengthErrors}"),
            new ObjectAttribute<NetDevice>("rx_packets", d => $"{d.Statistics.ReceivedFrames}"),
            new ObjectAttribute<NetDevice>("tx_bytes", d => $"{d.Statistics.TransmittedBytes}"),
            new ObjectAttribute<NetDevice>("tx_dropped", d => $"{d.Statistics.TransmitDropped}"),
            new ObjectAttribute<NetDevice>("tx_packets", d => $"{d.Statistics.TransmittedFrames}")),
    ];

    // Of one side of a queue.
    private static NetStatistics Of(object side) => side is ReceiveSide receive ? receive.Statistics : ((TransmitSide)side).Statistics;

    private ValueTask SetAlias(string value)
    {
        // IFALIASZ.
        const int most = 255;
        if (Encoding.UTF8.GetByteCount(value) > most)
            throw new VirtbusException(Errno.EINVAL, $"{DevPath}/ifalias: the alias has more than {most} bytes. Write a shorter one.");
        _alias = value;
        return default;
    }

    private static ObjectAttribute<NetDevice> Feature(string name, bool isTransmit, OffloadKinds kinds)
    {
        return new ObjectAttribute<NetDevice>(
            name,
            d => $"{((OnOf(d) & kinds) != OffloadKinds.None ? "on" : "off")}{(OfHardware(d) == OffloadKinds.None ? " [fixed]" : "")}",
            (d, value, _) =>
            {
                var path = $"{d.DevPath}/features/{name}";
                if (value is not ("on" or "off"))
                    throw new VirtbusException(Errno.EINVAL, $"{path}: '{value}' is not a state. Write on or off.");
                if (value == "on" && OfHardware(d) == OffloadKinds.None)
                    throw new VirtbusException(Errno.EOPNOTSUPP, $"{path}: the hardware has none of it. What it leaves is done all the same.");
                var after = value == "on" ? OnOf(d) | OfHardware(d) : OnOf(d) & ~kinds;
                if (isTransmit)
                    d._transmitOffloads = after;
                else
                    d._receiveOffloads = after;
                return default;
            });

        OffloadKinds OfHardware(NetDevice device) => kinds & (isTransmit ? device._hardwareTransmit : device._hardwareReceive);

        OffloadKinds OnOf(NetDevice device) => isTransmit ? device._transmitOffloads : device._receiveOffloads;
    }

    private ValueTask SetMtu(string value)
    {
        var mtu = AttributeValue.ParseUnsigned(DevPath + "/mtu", value);
        if (mtu < MinMtu || mtu > (ulong)MaxMtu)
            throw new VirtbusException(Errno.EINVAL, $"{DevPath}/mtu: {value} is out of range. The interface takes {MinMtu} to {MaxMtu}.");
        _mtu = (int)mtu;
        return default;
    }

    // IFF_UP is bit 0; no other flag can be set here.
    private ValueTask SetFlagsAsync(string value) => SetUpAsync((AttributeValue.ParseUnsigned(DevPath + "/flags", value, 0xFFFF) & 1) != 0);

    private static ulong ParseAddress(string path, string value)
    {
        var address = 0UL;
        var bytes = value.Split(':');
        foreach (var part in bytes)
        {
            if (bytes.Length != 6 || part.Length != 2 || !byte.TryParse(part, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var number))
                throw new VirtbusException(Errno.EINVAL, $"{path}: '{value}' is no Ethernet address. Write one like 02:00:00:00:00:01.");
            address = (address << 8) | number;
        }

        return address;
    }

    private static IEnumerable<ushort> ParseVlans(string path, string value)
    {
        var vlans = new List<ushort>();
        foreach (var word in value.Split(' ', StringSplitOptions.RemoveEmptyEntries))
        {
            if (AttributeValue.ParseUnsigned(path, word) is not (>= 1 and <= SwitchPort.MaxVlan and var vlan))
                throw new VirtbusException(Errno.EINVAL, $"{path}: {word} is no VLAN. Write the ids that are wanted, 1 to {SwitchPort.MaxVlan}, with a blank between two.");
            vlans.Add((ushort)vlan);
        }

        return vlans;
    }
}
