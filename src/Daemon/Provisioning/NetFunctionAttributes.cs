using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Models.VirtioNet;
using Virtbus.Platform;

namespace Virtbus.Daemon.Provisioning;

/// <summary>
/// What the tree has to say of virtio network functions that the PCI bus does not know. In Linux these files are those of the interface that a driver makes;
/// here the driver is a guest's, so they are the function's, and count what its network card received and sent.
/// </summary>
internal static class NetFunctionAttributes
{
    /// <summary>
    /// What its cable does: <c>carrier</c>, 1 while it is plugged in, which can be written; <c>announce</c>, by a 1 to which the driver tells the network where it is; and
    /// <c>speed</c>, as in Linux in Mbit/s, and -1 for unknown.
    /// </summary>
    /// <param name="find">As of <see cref="Statistics"/>.</param>
    public static AttributeGroup Link(Func<PciDevice, VirtioNetDevice?> find)
    {
        return new AttributeGroup(
            new ObjectAttribute<Device>("announce", null, (d, value, _) => Announce(d, value), IsThere),
            new ObjectAttribute<Device>("carrier", d => Find(d).IsLinkUp ? "1" : "0", (d, value, _) => SetLink(d, value), IsThere),
            new ObjectAttribute<Device>("speed", d => Find(d).Speed is { } speed ? $"{speed}" : "-1", null, IsThere));

        bool IsThere(Device device) => device is PciDevice pci && find(pci) is not null;

        // It may go between the look and the use.
        VirtioNetDevice Find(Device device) => device is PciDevice pci && find(pci) is { } model
            ? model
            : throw new VirtbusException(Errno.ENODEV, $"{device.DevPath} is no network function any more.");

        ValueTask SetLink(Device device, string value)
        {
            Find(device).SetLink(AttributeValue.ParseBoolean(device.DevPath + "/carrier", value));
            return default;
        }

        ValueTask Announce(Device device, string value)
        {
            var path = device.DevPath + "/announce";
            if (AttributeValue.ParseUnsigned(path, value) != 1)
                throw new VirtbusException(Errno.EINVAL, $"{path}: '{value}' is not 1. Write 1 to have its driver tell the network where it is.");
            if (!Find(device).Announce())
                throw new VirtbusException(Errno.EOPNOTSUPP, $"{path}: no driver is there that announces itself. Wait until a guest's has taken the function; not all of them do.");
            return default;
        }
    }

    /// <summary>The group <c>statistics</c>, with the names of Linux's <c>/sys/class/net/*/statistics</c>.</summary>
    /// <param name="find">The model behind a device; null for one that is no virtio network function. Any thread.</param>
    public static AttributeGroup Statistics(Func<PciDevice, VirtioNetDevice?> find)
    {
        return new AttributeGroup(
            "statistics",
            Counter("rx_bytes", static c => c.ReceivedBytes),
            Counter("rx_dropped", static c => c.ReceiveLost),
            Counter("rx_packets", static c => c.ReceivedFrames),
            Counter("tx_bytes", static c => c.SentBytes),
            Counter("tx_dropped", static c => c.SendLost),
            Counter("tx_packets", static c => c.SentFrames)) { IsHiddenWhenEmpty = true };

        ObjectAttribute<Device> Counter(string name, Func<VirtioNetCounters, ulong> value) =>
            new(name, d => $"{(Find(d) is { } model ? value(model.Counters) : 0)}", null, d => Find(d) is not null);

        VirtioNetDevice? Find(Device device) => device is PciDevice pci ? find(pci) : null;
    }
}
