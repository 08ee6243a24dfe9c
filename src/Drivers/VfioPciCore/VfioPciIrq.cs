namespace Virtbus.Drivers.VfioPci;

/// <summary>Interrupt indexes of a PCI function, as in Linux's vfio.h.</summary>
public static class VfioPciIrq
{
    /// <summary>The level-triggered line.</summary>
    public const uint VFIO_PCI_INTX_IRQ_INDEX = 0;

    /// <summary>Messages of the MSI capability.</summary>
    public const uint VFIO_PCI_MSI_IRQ_INDEX = 1;

    /// <summary>Messages of the MSI-X table.</summary>
    public const uint VFIO_PCI_MSIX_IRQ_INDEX = 2;

    /// <summary>The function reported an error that it does not recover from.</summary>
    public const uint VFIO_PCI_ERR_IRQ_INDEX = 3;

    /// <summary>The driver wants the function back.</summary>
    public const uint VFIO_PCI_REQ_IRQ_INDEX = 4;

    /// <summary>Number of interrupt indexes.</summary>
    public const int VFIO_PCI_NUM_IRQS = 5;
}
