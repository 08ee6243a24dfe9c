using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Drivers.VirtioBlk;

/// <summary>Memory of users that the device reaches: where it is for this process, and for the device.</summary>
/// <param name="Buffer">The memory; the disk's.</param>
/// <param name="First">Its first byte in this process.</param>
/// <param name="Number">Its number among all that the disk gave, from 1.</param>
internal sealed record BlkMemory(DmaBuffer Buffer, nint First, long Number)
{
    /// <summary>Finds where the device sees a run.</summary>
    /// <param name="all">The memories.</param>
    /// <param name="run">The run.</param>
    /// <param name="address">Where the device sees its first byte.</param>
    /// <returns>False when the run is not in one of them whole.</returns>
    internal static bool TryFind(ReadOnlySpan<BlkMemory> all, IoVector run, out Iova address)
    {
        foreach (var one in all)
        {
            var at = (nuint)(run.Address - one.First);
            if (run.Address < one.First || at > one.Buffer.Size || run.Length > one.Buffer.Size - at)
                continue;
            address = new Iova(one.Buffer.Address.Value + at);
            return true;
        }

        address = default;
        return false;
    }
}
