using System.Runtime.InteropServices;

namespace Virtbus.Wire.VfioUser;

// What the messages carry, in the order of the specification's tables (docs/interop/vfio-user.rst of QEMU); what is Linux's own there has the
// layout of linux/vfio.h. All numbers are in host byte order. A struct is read once from the bytes that came, and looked at then.

/// <summary>The head of every message.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserHeader
{
    internal ushort Id;
    internal VfioUserCommand Command;
    /// <summary>Bytes of the message, this head included.</summary>
    internal uint Size;
    internal uint Flags;
    internal uint Error;
}

/// <summary>VERSION; its text follows.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserVersion
{
    internal ushort Major;
    internal ushort Minor;
}

/// <summary>DMA_MAP.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserDmaMap
{
    internal uint ArgSize;
    internal uint Flags;
    /// <summary>Where in the descriptor's file.</summary>
    internal ulong Offset;
    internal ulong Address;
    internal ulong Size;
}

/// <summary>DMA_UNMAP; with a flag, a <see cref="VfioUserDirtyBitmap"/> follows.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserDmaUnmap
{
    internal uint ArgSize;
    internal uint Flags;
    internal ulong Address;
    internal ulong Size;
}

/// <summary><c>struct vfio_bitmap</c> without its pointer; the bits follow.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserDirtyBitmap
{
    internal ulong PageSize;
    /// <summary>Bytes of the bitmap.</summary>
    internal ulong Size;
}

/// <summary>DMA_READ and DMA_WRITE; the data follows.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserDmaAccess
{
    internal ulong Address;
    internal ulong Count;
}

/// <summary>A reply to DMA_WRITE, which may leave out the upper half of its count, as the specification's table has it.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 4)]
internal struct VfioUserShortDmaAccess
{
    internal ulong Address;
    internal uint Count;
}

/// <summary>DEVICE_GET_INFO: <c>struct vfio_device_info</c> without its capabilities.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserDeviceInfo
{
    internal uint ArgSize;
    internal uint Flags;
    internal uint Regions;
    internal uint Interrupts;
}

/// <summary>DEVICE_GET_REGION_INFO: <c>struct vfio_region_info</c>; capabilities follow.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserRegionInfo
{
    internal uint ArgSize;
    internal uint Flags;
    internal uint Index;
    /// <summary>Where the first capability begins, from the start of this.</summary>
    internal uint Capabilities;
    internal ulong Size;
    internal ulong Offset;
}

/// <summary><c>struct vfio_info_cap_header</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserCapabilityHeader
{
    internal ushort Id;
    internal ushort Version;
    /// <summary>Where the next one begins, from the start of the region's info; 0 for none.</summary>
    internal uint Next;
}

/// <summary><c>struct vfio_region_info_cap_sparse_mmap</c>; areas follow.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserSparseAreas
{
    internal VfioUserCapabilityHeader Header;
    internal uint Count;
    internal uint Reserved;
}

/// <summary><c>struct vfio_region_sparse_mmap_area</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserSparseArea
{
    internal ulong Offset;
    internal ulong Size;
}

/// <summary><c>struct vfio_region_info_cap_type</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserRegionType
{
    internal VfioUserCapabilityHeader Header;
    internal uint Type;
    internal uint Subtype;
}

/// <summary>DEVICE_GET_REGION_IO_FDS; entries follow.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserIoFds
{
    internal uint ArgSize;
    internal uint Flags;
    internal uint Index;
    internal uint Count;
}

/// <summary>An entry of DEVICE_GET_REGION_IO_FDS that is an ioeventfd.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserIoFd
{
    internal ulong Offset;
    internal ulong Size;
    internal uint DescriptorIndex;
    internal uint Type;
    internal uint Flags;
    internal uint Reserved;
    internal ulong DataMatch;
}

/// <summary>The entry of libvfio-user, which differs from the specification's: a shadow's descriptor and offset come before the value.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserWideIoFd
{
    internal ulong Offset;
    internal ulong Size;
    internal uint DescriptorIndex;
    internal uint Type;
    internal uint Flags;
    internal uint ShadowIndex;
    internal ulong ShadowOffset;
    internal ulong DataMatch;
}

/// <summary>DEVICE_GET_IRQ_INFO: <c>struct vfio_irq_info</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserIrqInfo
{
    internal uint ArgSize;
    internal uint Flags;
    internal uint Index;
    internal uint Count;
}

/// <summary>DEVICE_SET_IRQS: <c>struct vfio_irq_set</c>; the bytes of DATA_BOOL follow.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserIrqSet
{
    internal uint ArgSize;
    internal uint Flags;
    internal uint Index;
    internal uint Start;
    internal uint Count;
}

/// <summary>REGION_READ and REGION_WRITE; the data follows.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserRegionAccess
{
    internal ulong Offset;
    internal uint Region;
    internal uint Count;
}

/// <summary>REGION_WRITE_MULTI; entries follow.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserWriteMulti
{
    internal ulong Count;
}

/// <summary>An entry of REGION_WRITE_MULTI: of the data, the access says how many bytes count.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserWriteEntry
{
    internal VfioUserRegionAccess Access;
    internal ulong Data;
}

/// <summary>DEVICE_FEATURE: <c>struct vfio_device_feature</c>; its data follows.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserFeature
{
    internal uint ArgSize;
    /// <summary>The feature, and what is done with it.</summary>
    internal uint Flags;
}

/// <summary>A feature whose data is one number (<c>struct vfio_device_feature_migration</c>, <c>_mig_data_size</c>).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserFeatureNumber
{
    internal VfioUserFeature Head;
    internal ulong Value;
}

/// <summary>The feature of the migration's state (<c>struct vfio_device_feature_mig_state</c>).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserFeatureState
{
    internal VfioUserFeature Head;
    internal uint State;
    /// <summary>-1: the state goes by messages.</summary>
    internal int DataDescriptor;
}

/// <summary>The feature that starts a log (<c>struct vfio_device_feature_dma_logging_control</c> without its pointer); ranges follow.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserLoggingStart
{
    internal VfioUserFeature Head;
    internal ulong PageSize;
    internal uint Count;
    internal uint Reserved;
}

/// <summary><c>struct vfio_device_feature_dma_logging_range</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserLoggingRange
{
    internal ulong Address;
    internal ulong Size;
}

/// <summary>The feature that reads a log (<c>struct vfio_device_feature_dma_logging_report</c> without its pointer); the bits follow.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserLoggingReport
{
    internal VfioUserFeature Head;
    internal ulong Address;
    internal ulong Size;
    internal ulong PageSize;
}

/// <summary>MIG_DATA_READ and MIG_DATA_WRITE; the data follows.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VfioUserMigrationData
{
    internal uint ArgSize;
    internal uint Size;
}
