using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Models.VirtioNet;

namespace Virtbus.Daemon.Provisioning;

/// <summary>
/// What the tree has to say of virtio network functions that the PCI bus does not know. In Linux these files are those of the interface that a driver makes;
/// here the driver is a guest's, so they are the function's, and count what its network card received and sent.
/// </summary>
internal static class NetFunctionAttributes
{
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
