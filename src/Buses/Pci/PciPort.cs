using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Buses.Pci;

/// <summary>What a function finds at its place on the bus.</summary>
internal sealed class PciPort(PciDevice device) : IPciPort
{
    public DmaPort Dma => device.Dma;

    public FaultSource Faults => device.Hardware.Faults;

    public void SendMessage(ulong address, uint data) => device.Interrupts.Message(address, data);

    public IPciMessageTarget? FindTarget(ulong address, uint data) => device.Interrupts.Find(address, data);

    public void SetInterruptLine(bool asserted) => device.Interrupts.SetLine(asserted);

    public override string ToString() => device.Name;
}
