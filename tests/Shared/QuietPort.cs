using Virtbus.Memory.Dma;
using Virtbus.Pci;

namespace Virtbus.Tests;

/// <summary>A slot in which nobody listens, for tests of what is allocated.</summary>
internal sealed class QuietPort(DmaPort dma) : IPciPort
{
    public DmaPort Dma => dma;

    public void SendMessage(ulong address, uint data)
    {
    }

    public void SetInterruptLine(bool asserted)
    {
    }
}
