using Virtbus.Pci;
using static Virtbus.Pci.PciMsix;

namespace Virtbus.Buses.Pci;

/// <summary>Where a function has its MSI-X table, as its capability says at the moment.</summary>
/// <param name="Capability">Offset of the capability in config space.</param>
/// <param name="Vectors">How many vectors.</param>
/// <param name="Bar">The BAR, 0 to 5.</param>
/// <param name="Offset">First byte in the BAR.</param>
public readonly record struct PciMsixPlace(int Capability, int Vectors, int Bar, ulong Offset)
{
    /// <summary>Bytes of the table.</summary>
    public ulong Size => (ulong)(Vectors * PCI_MSIX_ENTRY_SIZE);

    /// <summary>Reads it off a function.</summary>
    /// <param name="device">The function.</param>
    /// <returns>Null without MSI-X.</returns>
    public static PciMsixPlace? Find(PciDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        if (device.FindCapability(PciCapabilityId.PCI_CAP_ID_MSIX) is not (> 0 and var at))
            return null;
        var table = device.ReadConfig32(at + PCI_MSIX_TABLE);
        var vectors = (device.ReadConfig16(at + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_QSIZE) + 1;
        // What is gone reads as all ones; its accesses are lost whatever the BAR.
        return new PciMsixPlace(at, vectors, Math.Min((int)(table & PCI_MSIX_BIR), 5), table & ~(uint)PCI_MSIX_BIR);
    }
}
