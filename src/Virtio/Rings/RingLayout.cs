using Virtbus.Memory;

namespace Virtbus.Virtio.Rings;

/// <summary>Where a driver put a virtqueue, and how it is used.</summary>
/// <param name="Size">Number of descriptors; for a split ring a power of two.</param>
/// <param name="DescriptorArea">Address of the descriptor table.</param>
/// <param name="DriverArea">Address of the available ring.</param>
/// <param name="DeviceArea">Address of the used ring.</param>
/// <param name="EventIndex">Whether VIRTIO_F_EVENT_IDX was negotiated.</param>
/// <param name="Indirect">Whether VIRTIO_F_INDIRECT_DESC was negotiated.</param>
public readonly record struct RingLayout(
    int Size, Iova DescriptorArea, Iova DriverArea, Iova DeviceArea, bool EventIndex, bool Indirect);
