using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Pci;

/// <summary>The right to do DMA for a while, as <see cref="PciFunction.UsePort"/> gives it: an unplug waits until it is disposed.</summary>
public readonly ref struct PciPortUse
{
    private readonly UseGate? _gate;

    internal PciPortUse(UseGate gate, DmaPort dma)
    {
        _gate = gate;
        Dma = dma;
    }

    /// <summary>The way to memory; null when the function may do no DMA now: unplugged, in D3hot, or no bus master.</summary>
    public DmaPort? Dma { get; }

    /// <summary>Gives the right back.</summary>
    public void Dispose() => _gate?.Leave();
}
