using System.Collections.Concurrent;
using Virtbus.Block;
using Virtbus.Buses.Vdpa;
using Virtbus.Models.VirtioBlk;
using Virtbus.Platform;
using Virtbus.Provisioning;
using Virtbus.Virtio;

namespace Virtbus.Drivers.VdpaSimBlk;

/// <summary>Makes disks in memory of the size that the profile says.</summary>
internal sealed class VdpaSimBlkOps : IVdpaManagementOps
{
    private static readonly ProfileField<int> Queues = VdpaFields.Queues(256);
    private static readonly ProfileField[] All = [VdpaFields.Capacity, VdpaFields.Serial, Queues, VdpaFields.Packed];

    private readonly ConcurrentDictionary<IVdpaOps, MemoryBackend> _media = new();

    public IReadOnlyList<uint> SupportedTypes => [VirtioDeviceId.VIRTIO_ID_BLOCK];

    public IReadOnlyList<ProfileField> Fields => All;

    public IVdpaOps Create(FunctionProfile profile)
    {
        var medium = new MemoryBackend(profile.Get(VdpaFields.Capacity));
        try
        {
            var ops = new VirtioDeviceOps(new VirtioBlkDevice(
                profile.Name, medium, VdpaFields.SerialOf(profile), profile.Get(Queues), packed: profile.Get(VdpaFields.Packed)));
            _media[ops] = medium;
            return ops;
        }
        catch
        {
            medium.Dispose();
            throw;
        }
    }

    public void Destroy(IVdpaOps ops)
    {
        ((VirtioDeviceOps)ops).Dispose();
        if (_media.TryRemove(ops, out var medium))
            medium.Dispose();
    }
}
