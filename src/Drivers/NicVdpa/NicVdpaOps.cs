using Virtbus.Buses.Vdpa;
using Virtbus.Drivers.Nic;
using Virtbus.Provisioning;
using Virtbus.Virtio;

namespace Virtbus.Drivers.NicVdpa;

/// <summary>Makes vDPA devices from the virtio functions of an adapter.</summary>
internal sealed class NicVdpaOps(INicVirtio virtio) : IVdpaManagementOps
{
    private static readonly ProfileField<int> Queues = VdpaFields.Queues(256);
    private static readonly ProfileField[] All = [VdpaFields.Medium, VdpaFields.Serial, Queues, VdpaFields.Packed];

    public IReadOnlyList<uint> SupportedTypes => [VirtioDeviceId.VIRTIO_ID_BLOCK];

    public IReadOnlyList<ProfileField> Fields => All;

    public IVdpaOps Create(FunctionProfile profile) => new VirtioFunctionOps(virtio.CreateBlockFunction(
        profile.Name, profile.Get(VdpaFields.Medium), VdpaFields.SerialOf(profile), profile.Get(Queues), profile.Get(VdpaFields.Packed)));

    public void Destroy(IVdpaOps ops) => ((VirtioFunctionOps)ops).Dispose();
}
