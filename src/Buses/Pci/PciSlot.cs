using Virtbus.Pci;

namespace Virtbus.Buses.Pci;

/// <summary>A place on a bus with hardware in it. The device comes and goes (remove, rescan); the hardware stays until it is unplugged.</summary>
/// <remarks>Guarded by the bus's topology lock.</remarks>
internal sealed class PciSlot(PciSegment segment, int devfn, IPciFunction function)
{
    public PciSegment Segment { get; } = segment;

    public int DevFn { get; } = devfn;

    public IPciFunction Function { get; } = function;

    public PciAddress Address => PciAddress.FromRoutingId(Segment.Host.Domain, (ushort)((Segment.Number << 8) | DevFn));

    /// <summary>What people call the hardware in it; null when they do not.</summary>
    public string? Label { get; init; }

    /// <summary>The device that stands for the hardware now.</summary>
    public PciDevice? Device;

    /// <summary>The IOMMU group of that device.</summary>
    public PciGroup? Group;

    /// <summary>The bus behind, when the function is a bridge.</summary>
    public PciSegment? Secondary;

    /// <summary>The number of the port, when the bus made it.</summary>
    public int? Port;

    /// <summary>The function is the bus's own: it ends when it leaves the slot.</summary>
    public bool IsOwned;

    /// <summary>A scan makes the device just now.</summary>
    public bool IsScanning;

    /// <summary>How many are about to take the hardware out; a rescan does not bring it back then.</summary>
    public int Leaves;

    /// <summary>The hardware is out of the slot.</summary>
    public bool IsEmpty;
}
