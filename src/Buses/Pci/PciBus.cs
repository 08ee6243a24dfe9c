using Virtbus.Core;

namespace Virtbus.Buses.Pci;

/// <summary>The PCI bus: host bridges, slots, routing ids, matching by id.</summary>
public sealed class PciBus : Bus
{
    /// <summary>Makes the bus; register it with a fabric.</summary>
    public PciBus()
        : base("pci")
    {
    }

    /// <inheritdoc/>
    public override DeviceId? Match(IDeviceIdentity device, Driver driver) => throw new NotSupportedException();
}
