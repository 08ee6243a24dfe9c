using Virtbus.Provisioning;

namespace Virtbus.Buses.Vdpa;

/// <summary>What a provider of vDPA devices does for its management device (Linux: vdpa_mgmtdev_ops).</summary>
public interface IVdpaManagementOps
{
    /// <summary>The virtio types that can be made.</summary>
    IReadOnlyList<uint> SupportedTypes { get; }

    /// <summary>What a profile may say, besides <see cref="VdpaFields.Type"/> and <see cref="VdpaFields.Driver"/>. Static.</summary>
    IReadOnlyList<ProfileField> Fields { get; }

    /// <summary>Makes the operations of a device, configured as the profile says, not yet visible to anyone.</summary>
    /// <param name="profile">The whole configuration; what has to be set is.</param>
    /// <exception cref="Platform.VirtbusException">EINVAL, EOPNOTSUPP: the profile asks for what the provider has not; ENOENT: the medium is not there.</exception>
    IVdpaOps Create(FunctionProfile profile);

    /// <summary>Frees what <see cref="Create"/> made, when the device has left the bus.</summary>
    /// <param name="ops">The operations.</param>
    void Destroy(IVdpaOps ops);
}
