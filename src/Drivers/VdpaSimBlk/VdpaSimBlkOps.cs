using System.Collections.Concurrent;
using Virtbus.Block;
using Virtbus.Buses.Vdpa;
using Virtbus.Models.VirtioBlk;
using Virtbus.Platform;
using Virtbus.Virtio;

namespace Virtbus.Drivers.VdpaSimBlk;

/// <summary>Makes disks in memory of the size that the profile says.</summary>
internal sealed class VdpaSimBlkOps : IVdpaManagementOps
{
    private readonly ConcurrentDictionary<IVdpaOps, MemoryBackend> _media = new();

    public IReadOnlyList<uint> SupportedTypes => [VirtioDeviceId.VIRTIO_ID_BLOCK];

    public int MaxQueues => 256;

    public IVdpaOps Create(VdpaProfile profile)
    {
        if (profile.Medium.Length > 0)
        {
            throw new VirtbusException(
                Errno.EOPNOTSUPP, $"vDPA device '{profile.Name}': a simulated disk has no medium '{profile.Medium}'. Give it a capacity instead.");
        }

        if (profile.Capacity <= 0)
            throw new VirtbusException(Errno.EINVAL, $"vDPA device '{profile.Name}' has no capacity. Give it one, a multiple of 512 bytes.");
        if (profile.Capacity % 512 != 0)
        {
            throw new VirtbusException(
                Errno.EINVAL, $"vDPA device '{profile.Name}' cannot have {profile.Capacity} bytes. Give it a multiple of 512.");
        }

        var medium = new MemoryBackend(profile.Capacity);
        try
        {
            var ops = new VirtioDeviceOps(new VirtioBlkDevice(profile.Name, medium, profile.Serial, profile.Queues));
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
