using Virtbus.Memory;

namespace Virtbus.Virtio.Rings;

/// <summary>One descriptor's worth of memory that a driver puts into a chain.</summary>
/// <param name="Address">First byte, as the device will address it.</param>
/// <param name="Length">Length in bytes.</param>
/// <param name="DeviceWrites">Whether the device writes it; it reads it otherwise.</param>
public readonly record struct DriverBuffer(Iova Address, uint Length, bool DeviceWrites);
