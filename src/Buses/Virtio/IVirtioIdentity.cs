using Virtbus.Core;
using Virtbus.Virtio;

namespace Virtbus.Buses.Virtio;

/// <summary>What the virtio bus matches by.</summary>
public interface IVirtioIdentity : IDeviceIdentity
{
    /// <summary>Virtio device type, see <see cref="VirtioDeviceId"/>.</summary>
    uint VirtioType { get; }

    /// <summary>Virtio vendor id; on PCI the subsystem vendor.</summary>
    uint VendorId { get; }

    /// <summary>Features that the device offers.</summary>
    VirtioFeatures DeviceFeatures { get; }
}
