using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>The rules for the size of a disk and of its blocks.</summary>
internal static class BlockGeometry
{
    internal const int SectorSize = 512;
    private const int MaxBlockSize = 65536;

    internal static void CheckBlockSize(string name, int blockSize)
    {
        if (blockSize is < SectorSize or > MaxBlockSize || !int.IsPow2(blockSize))
        {
            throw new VirtbusException(Errno.EINVAL,
                $"Disk '{name}' cannot have blocks of {blockSize} bytes. Choose a power of two from {SectorSize} to {MaxBlockSize}.");
        }
    }

    internal static void Check(string name, long capacity, int blockSize)
    {
        CheckBlockSize(name, blockSize);
        if (capacity <= 0 || capacity % blockSize != 0)
        {
            throw new VirtbusException(Errno.EINVAL,
                $"Disk '{name}' has {capacity} bytes, which is no multiple of {blockSize} above 0. Make it a multiple.");
        }
    }
}
