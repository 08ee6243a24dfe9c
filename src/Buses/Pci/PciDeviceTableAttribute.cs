using Virtbus.Core;

namespace Virtbus.Buses.Pci;

/// <summary>An id-table entry of the PCI driver class that it stands on; the module's alias comes from it too.</summary>
/// <param name="alias">The entry as a modalias pattern, for example pci:v00001B36d00000002sv*sd*bc*sc*i*; vfio_pci: makes it override-only.</param>
[AttributeUsage(AttributeTargets.Class, AllowMultiple = true, Inherited = false)]
public sealed class PciDeviceTableAttribute(string alias) : ModuleAliasAttribute(alias)
{
    /// <summary>A number of the driver's own choice.</summary>
    public ulong DriverData { get; set; }
}
