using Virtbus.Core;

namespace Virtbus.Buses.Vdpa;

/// <summary>What a vDPA driver's probe is told of the match: every vDPA driver serves every virtio type unless it says which.</summary>
/// <param name="VirtioType">The virtio device type that matched, for example 2 for block.</param>
public sealed record VdpaDeviceId(uint VirtioType) : DeviceId(0);
