using Virtbus.Block;
using Virtbus.Buses.Vdpa;
using Virtbus.Models.VirtioBlk;

namespace Virtbus.Tests;

/// <summary>A disk with nothing between its model and its transport.</summary>
internal static class ModelDisk
{
    public static VirtioDeviceOps Create(IBlockBackend medium, string serial, int queues, bool packed = false) =>
        new(new VirtioBlkDevice("disk0", medium, serial, queues, packed: packed));
}
