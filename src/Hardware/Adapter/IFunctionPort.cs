using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Hardware.Adapter;

/// <summary>
/// By what a function of an adapter is reached and reaches out: who it is, where its registers are, which vectors and which way to memory it
/// has. A PCI function is one, physical or virtual; a piece that is cut out of one is another: a page of its BARs, some of its vectors, its DMA
/// with a PASID. The inside of a function (<see cref="FunctionUnit"/>) knows no other world. Any thread.
/// </summary>
internal interface IFunctionPort
{
    /// <summary>Who it is; never changes.</summary>
    FunctionIdentity Identity { get; }

    /// <summary>Where its registers and doorbells are; never changes.</summary>
    FunctionRegisterPlace Registers { get; }

    /// <summary>How many interrupt vectors it has; never changes.</summary>
    int Vectors { get; }

    /// <summary>Raises a vector, subject to its mask.</summary>
    /// <param name="vector">Its number, below <see cref="Vectors"/>.</param>
    void RaiseVector(int vector);

    /// <summary>The right to do DMA for a while; none while the function may do none: unplugged, asleep, no bus master.</summary>
    FunctionDma UseDma();

    /// <summary>The way to memory with one of the function's PASIDs; null while it is unplugged or has no such one.</summary>
    /// <param name="pasid">The PASID.</param>
    DmaPort? PortOf(uint pasid);

    /// <summary>Where bugs of the function are told; null while it is unplugged.</summary>
    FaultSource? Faults { get; }
}
