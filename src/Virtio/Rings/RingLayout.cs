using Virtbus.Memory;

namespace Virtbus.Virtio.Rings;

/// <summary>Where a driver put a virtqueue, and how it is used.</summary>
/// <param name="Size">Number of descriptors; for a split ring a power of two.</param>
/// <param name="DescriptorArea">Address of the descriptor table; of a packed ring, of the ring itself.</param>
/// <param name="DriverArea">Address of the available ring; of a packed ring, of what the driver wants to be told of.</param>
/// <param name="DeviceArea">Address of the used ring; of a packed ring, of what the device wants to be told of.</param>
/// <param name="EventIndex">Whether VIRTIO_F_EVENT_IDX was negotiated.</param>
/// <param name="Indirect">Whether VIRTIO_F_INDIRECT_DESC was negotiated.</param>
/// <param name="InOrder">Whether VIRTIO_F_IN_ORDER was negotiated.</param>
/// <param name="Packed">Whether VIRTIO_F_RING_PACKED was negotiated.</param>
public readonly record struct RingLayout(
    int Size, Iova DescriptorArea, Iova DriverArea, Iova DeviceArea, bool EventIndex, bool Indirect, bool InOrder = false, bool Packed = false);
