using Virtbus.Core;

namespace Virtbus.Buses.Vdpa;

/// <summary>What the vdpa bus matches by.</summary>
public interface IVdpaIdentity : IDeviceIdentity
{
    /// <summary>Virtio device type, for example 2 for block.</summary>
    uint VirtioType { get; }
}
