using Virtbus.Core;

namespace Virtbus.Buses.Pci;

/// <summary>A host bridge: the top of one PCI domain, with its root bus. Made by <see cref="PciBus.AddHostBridgeAsync"/>.</summary>
public sealed class PciHostBridge : Device
{
    internal PciHostBridge(ushort domain)
        : base($"pci{domain:x4}:00")
    {
        Domain = domain;
        Root = new PciSegment(this, null, 0, 255);
        Owners[0] = Root;
        // Windows as PCs have them: I/O above the fixed ports, memory below the interrupt controllers, the rest above 4 GiB.
        Root.Windows[(int)WindowKind.Io] = new AddressWindow(0x1000, 0xFFFF);
        Root.Windows[(int)WindowKind.Memory] = new AddressWindow(0x8000_0000, 0xFEBF_FFFF);
        Root.Windows[(int)WindowKind.Prefetchable] = new AddressWindow(0x40_0000_0000, 0xFF_FFFF_FFFF);
    }

    /// <summary>The domain's number.</summary>
    public ushort Domain { get; }

    internal PciSegment Root { get; }

    // Guarded by the bus's topology lock: whose each bus number is, and the routing ids of virtual functions.
    internal PciSegment?[] Owners { get; } = new PciSegment?[256];

    internal HashSet<ushort> VirtualIds { get; } = [];

    internal bool HasVirtualFunctions(int bus) => VirtualIds.Any(id => id >> 8 == bus);
}
