using Virtbus.Pci;

namespace Virtbus.Hardware.Probe;

/// <summary>What a scratch function's engine asks of its PCI side.</summary>
internal interface IScratchHost
{
    PciPortUse UsePort();

    bool RaiseMessage(int vector);

    void StageInterrupt(bool asserted);

    void ShowInterrupt();
}
