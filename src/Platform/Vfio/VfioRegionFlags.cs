namespace Virtbus.Platform;

/// <summary>What can be done with a region; values as in Linux's vfio.h.</summary>
[Flags]
public enum VfioRegionFlags : uint
{
    /// <summary>Nothing.</summary>
    None = 0,
    /// <summary>VFIO_REGION_INFO_FLAG_READ</summary>
    Read = 1,
    /// <summary>VFIO_REGION_INFO_FLAG_WRITE</summary>
    Write = 2,
    /// <summary>VFIO_REGION_INFO_FLAG_MMAP: <see cref="VfioRegionInfo.Areas"/> may be mapped.</summary>
    Mmap = 4,
}
