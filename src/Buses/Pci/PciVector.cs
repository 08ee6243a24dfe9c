namespace Virtbus.Buses.Pci;

/// <summary>One interrupt vector that a driver has allocated.</summary>
public sealed class PciVector
{
    internal PciVector(PciDevice device, PciInterruptKinds kind, int index)
    {
        Device = device;
        Kind = kind;
        Index = index;
    }

    /// <summary>Whose it is.</summary>
    public PciDevice Device { get; }

    /// <summary>Which way it comes; one kind.</summary>
    public PciInterruptKinds Kind { get; }

    /// <summary>Its number within the function.</summary>
    public int Index { get; }

    /// <summary>How often it came.</summary>
    public long Count => throw new NotSupportedException();

    /// <summary>
    /// Sets what is called when it comes, on the thread of the function that raised it; it must not block. For INTx it is called when the line
    /// is or gets asserted and the vector is not masked; a handler masks it (<see cref="Mask"/>) or quiets the function, or is called again.
    /// When the call returns, the handler that was set before runs no more.
    /// </summary>
    /// <param name="handler">The handler; null takes it off.</param>
    public void SetHandler(Action? handler) => throw new NotSupportedException();

    /// <summary>Masks it at the function: MSI-X by the table, MSI by the mask register where there is one, INTx by the command register.</summary>
    public void Mask() => throw new NotSupportedException();

    /// <summary>Unmasks it; one that came meanwhile comes now.</summary>
    public void Unmask() => throw new NotSupportedException();
}
