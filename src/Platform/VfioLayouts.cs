using System.Runtime.InteropServices;

namespace Virtbus.Platform;

/// <summary><c>struct vfio_group_status</c> (linux/vfio.h).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioGroupStatus
{
    internal uint ArgSize;
    internal uint Flags;
}

/// <summary><c>struct vfio_device_info</c> (linux/vfio.h).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioInfo
{
    internal uint ArgSize;
    internal uint Flags;
    internal uint Regions;
    internal uint Irqs;
    internal uint Capabilities;
    internal uint Padding;
}

/// <summary><c>struct vfio_region_info</c> (linux/vfio.h).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioRegion
{
    internal uint ArgSize;
    internal uint Flags;
    internal uint Index;
    internal uint Capabilities;
    internal ulong Size;
    internal ulong Offset;
}

/// <summary><c>struct vfio_irq_info</c> (linux/vfio.h).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioIrq
{
    internal uint ArgSize;
    internal uint Flags;
    internal uint Index;
    internal uint Count;
}

/// <summary><c>struct vfio_irq_set</c> (linux/vfio.h); the data follows.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioIrqSetHead
{
    internal uint ArgSize;
    internal uint Flags;
    internal uint Index;
    internal uint Start;
    internal uint Count;
}

/// <summary><c>struct vfio_iommu_type1_dma_map</c> (linux/vfio.h).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioDmaMap
{
    internal uint ArgSize;
    internal uint Flags;
    internal ulong Address;
    internal ulong Iova;
    internal ulong Size;
}

/// <summary><c>struct vfio_iommu_type1_dma_unmap</c> (linux/vfio.h); what follows for the dirty bitmap is not used.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioDmaUnmap
{
    internal uint ArgSize;
    internal uint Flags;
    internal ulong Iova;
    internal ulong Size;
}
