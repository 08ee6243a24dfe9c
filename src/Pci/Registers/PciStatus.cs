namespace Virtbus.Pci;

/// <summary>Bits of the status register; the secondary status of a bridge has the same from bit 8 on.</summary>
public static class PciStatus
{
    /// <summary>Interrupt Status: an INTx interrupt is pending in the function, Interrupt Disable or not.</summary>
    public const int PCI_STATUS_INTERRUPT = 0x0008;

    /// <summary>There is a list of capabilities.</summary>
    public const int PCI_STATUS_CAP_LIST = 0x0010;

    /// <summary>Master Data Parity Error; write 1 to clear.</summary>
    public const int PCI_STATUS_PARITY = 0x0100;

    /// <summary>Signaled Target Abort; write 1 to clear.</summary>
    public const int PCI_STATUS_SIG_TARGET_ABORT = 0x0800;

    /// <summary>Received Target Abort; write 1 to clear.</summary>
    public const int PCI_STATUS_REC_TARGET_ABORT = 0x1000;

    /// <summary>Received Master Abort; write 1 to clear.</summary>
    public const int PCI_STATUS_REC_MASTER_ABORT = 0x2000;

    /// <summary>Signaled System Error; write 1 to clear.</summary>
    public const int PCI_STATUS_SIG_SYSTEM_ERROR = 0x4000;

    /// <summary>Detected Parity Error; write 1 to clear.</summary>
    public const int PCI_STATUS_DETECTED_PARITY = 0x8000;
}
