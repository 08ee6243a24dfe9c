using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>What the inside of a function needs of the PCI function around it. Any thread.</summary>
internal interface IFunctionSlot
{
    /// <summary>The right to do DMA for a while; none while the function is in no slot, asleep or no bus master.</summary>
    PciPortUse UseDma();

    /// <summary>The port of one of the function's PASIDs; null while the function is in no slot.</summary>
    /// <param name="pasid">The PASID.</param>
    DmaPort? PortOf(uint pasid);

    /// <summary>Where bugs of the function are told; null while it is in no slot.</summary>
    FaultSource? Faults { get; }

    /// <summary>Raises an MSI-X vector, subject to its mask.</summary>
    /// <param name="vector">Its number.</param>
    void RaiseVector(int vector);
}
