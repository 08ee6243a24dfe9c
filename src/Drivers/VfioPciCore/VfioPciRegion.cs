namespace Virtbus.Drivers.VfioPci;

/// <summary>Region indexes of a PCI function, as in Linux's vfio.h. Regions 0 to 5 are the BARs.</summary>
public static class VfioPciRegion
{
    /// <summary>The first BAR.</summary>
    public const uint VFIO_PCI_BAR0_REGION_INDEX = 0;

    /// <summary>The last BAR.</summary>
    public const uint VFIO_PCI_BAR5_REGION_INDEX = 5;

    /// <summary>The expansion ROM.</summary>
    public const uint VFIO_PCI_ROM_REGION_INDEX = 6;

    /// <summary>Config space.</summary>
    public const uint VFIO_PCI_CONFIG_REGION_INDEX = 7;

    /// <summary>The legacy VGA ranges: never there.</summary>
    public const uint VFIO_PCI_VGA_REGION_INDEX = 8;

    /// <summary>Number of region indexes.</summary>
    public const int VFIO_PCI_NUM_REGIONS = 9;
}
