using Virtbus.Hardware.Adapter;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Tests.Hardware.Adapter;

/// <summary>
/// A piece of a physical function as the port of another one, with nothing of PCI of its own: its registers and doorbells are a page of the
/// parent's BARs, its vectors some of the parent's, its DMA the parent's with a PASID.
/// </summary>
internal sealed class PiecePort(IFunctionPort parent, uint id, ulong place, int firstVector, uint pasid) : IFunctionPort
{
    public FunctionIdentity Identity => new(id, 0x1003);

    public FunctionRegisterPlace Registers => new(place, place);

    public int Vectors => 4;

    public FaultSource? Faults => parent.Faults;

    public void RaiseVector(int vector) => parent.RaiseVector(firstVector + vector);

    public FunctionDma UseDma() => parent.UseDma().ForPasid(pasid);

    public DmaPort? PortOf(uint pasid) => null;
}
