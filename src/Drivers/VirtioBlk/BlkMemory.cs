using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Drivers.VirtioBlk;

/// <summary>Memory of users that the device reaches: where it is for this process, and for the device.</summary>
/// <param name="Buffer">The memory; the disk's.</param>
/// <param name="First">Its first byte in this process.</param>
/// <param name="Start">Where the device sees that.</param>
/// <param name="Size">Bytes.</param>
internal readonly record struct BlkMemory(DmaBuffer Buffer, nint First, ulong Start, nuint Size)
{
    /// <summary>Finds where the device sees a run.</summary>
    /// <param name="all">The memories.</param>
    /// <param name="run">The run.</param>
    /// <param name="address">Where the device sees its first byte.</param>
    /// <returns>False when the run is not in one of them whole.</returns>
    internal static bool TryFind(ReadOnlySpan<BlkMemory> all, IoVector run, out Iova address)
    {
        foreach (ref readonly var one in all)
        {
            var at = (nuint)(run.Address - one.First);
            if (run.Address < one.First || at > one.Size || run.Length > one.Size - at)
                continue;
            address = new Iova(one.Start + at);
            return true;
        }

        address = default;
        return false;
    }
}
