namespace Virtbus.Buses.Pci;

/// <summary>Ways of a function to interrupt.</summary>
[Flags]
public enum PciInterruptKinds
{
    /// <summary>None.</summary>
    None = 0,
    /// <summary>The level-triggered line.</summary>
    INTx = 1,
    /// <summary>Message-signalled, from the capability.</summary>
    Msi = 2,
    /// <summary>Message-signalled, from the table.</summary>
    MsiX = 4,
    /// <summary>Whichever there is, best first: MSI-X, MSI, INTx.</summary>
    All = INTx | Msi | MsiX,
}
