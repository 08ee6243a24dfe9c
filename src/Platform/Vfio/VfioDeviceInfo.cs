namespace Virtbus.Platform;

/// <summary>What a device is (VFIO_DEVICE_GET_INFO).</summary>
/// <param name="CanReset">VFIO_DEVICE_FLAGS_RESET.</param>
/// <param name="IsPci">VFIO_DEVICE_FLAGS_PCI: regions and interrupts are numbered as for PCI.</param>
/// <param name="Regions">Number of regions.</param>
/// <param name="Interrupts">Number of interrupt indexes.</param>
public readonly record struct VfioDeviceInfo(bool CanReset, bool IsPci, int Regions, int Interrupts);
