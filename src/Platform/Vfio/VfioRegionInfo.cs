namespace Virtbus.Platform;

/// <summary>A part of a region that a user may map.</summary>
/// <param name="Offset">Byte offset in the region. Whole pages, unless another process says otherwise of its own device.</param>
/// <param name="Size">Bytes, above 0; as for the offset. A map of it is rounded up to whole pages.</param>
/// <param name="File">What to map; it belongs to the device.</param>
/// <param name="FileOffset">Where in the file.</param>
public sealed record VfioRegionArea(ulong Offset, ulong Size, FileDescriptor File, ulong FileOffset);

/// <summary>The type of a device-specific region (VFIO_REGION_INFO_CAP_TYPE).</summary>
/// <param name="Type">Type.</param>
/// <param name="Subtype">Subtype.</param>
public readonly record struct VfioRegionType(uint Type, uint Subtype);

/// <summary>What a region is (VFIO_DEVICE_GET_REGION_INFO).</summary>
/// <param name="Flags">What can be done with it.</param>
/// <param name="Size">Bytes; 0 when there is none.</param>
public sealed record VfioRegionInfo(VfioRegionFlags Flags, ulong Size)
{
    /// <summary>The parts that may be mapped.</summary>
    public IReadOnlyList<VfioRegionArea> Areas { get; init; } = [];

    /// <summary>Its type, for device-specific regions.</summary>
    public VfioRegionType? Type { get; init; }
}
