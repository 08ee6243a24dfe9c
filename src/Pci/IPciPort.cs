using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Pci;

/// <summary>What a function finds at its slot: memory and interrupts. Any thread of the function may use it; nothing in it blocks for long.</summary>
public interface IPciPort
{
    /// <summary>The function's way to memory. <see cref="DmaPort.IsBusMaster"/> follows the command register; the bus sees to it.</summary>
    DmaPort Dma { get; }

    /// <summary>Where the function tells of bugs of its own; null for nowhere in particular.</summary>
    FaultSource? Faults => null;

    /// <summary>A message-signalled interrupt: the write of a message to the address that the system put into the function's table.</summary>
    /// <param name="address">As found in the MSI capability or the MSI-X table.</param>
    /// <param name="data">As found there.</param>
    void SendMessage(ulong address, uint data);

    /// <summary>Looks up what a message reaches, so that it can be signalled straight until that is revoked.</summary>
    /// <param name="address">As for <see cref="SendMessage"/>.</param>
    /// <param name="data">As for <see cref="SendMessage"/>.</param>
    /// <returns>The target; null when messages go by <see cref="SendMessage"/> only, or this one is nobody's.</returns>
    IPciMessageTarget? FindTarget(ulong address, uint data) => null;

    /// <summary>The level of the function's INTx line.</summary>
    /// <param name="asserted">Whether an interrupt is wanted.</param>
    void SetInterruptLine(bool asserted);
}
