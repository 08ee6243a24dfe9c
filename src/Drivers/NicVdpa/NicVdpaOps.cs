using Virtbus.Buses.Vdpa;
using Virtbus.Drivers.Nic;
using Virtbus.Virtio;

namespace Virtbus.Drivers.NicVdpa;

/// <summary>Makes vDPA devices from the virtio functions of an adapter.</summary>
internal sealed class NicVdpaOps(INicVirtio virtio) : IVdpaManagementOps
{
    public IReadOnlyList<uint> SupportedTypes => [VirtioDeviceId.VIRTIO_ID_BLOCK];

    public int MaxQueues => 256;

    public IVdpaOps Create(VdpaProfile profile) =>
        new VirtioFunctionOps(virtio.CreateBlockFunction(profile.Name, profile.Medium, profile.Serial, profile.Queues));

    public void Destroy(IVdpaOps ops) => ((VirtioFunctionOps)ops).Dispose();
}
