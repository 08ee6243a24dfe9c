using Virtbus.Memory.Dma;
using Virtbus.Pci;

namespace Virtbus.Hardware.Adapter;

/// <summary>A function's right to do DMA for a while: who takes the function away waits until it is disposed.</summary>
/// <param name="use">The right of the PCI function through which it goes.</param>
/// <param name="dma">The way to memory.</param>
internal readonly ref struct FunctionDma(PciPortUse use, DmaPort? dma)
{
    private readonly PciPortUse _use = use;

    /// <summary>The way to memory; null when the function may do no DMA now.</summary>
    public DmaPort? Dma { get; } = dma;

    /// <summary>The same right for what is cut out of the function: its DMA is marked. Only one of both is to be disposed.</summary>
    /// <param name="pasid">The mark.</param>
    public FunctionDma ForPasid(uint pasid) => new(_use, Dma?.ForPasid(pasid));

    public void Dispose() => _use.Dispose();
}
