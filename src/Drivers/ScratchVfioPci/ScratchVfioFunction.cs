using Virtbus.Buses.Pci;
using Virtbus.Drivers.VfioPci;
using Virtbus.Platform;

namespace Virtbus.Drivers.ScratchVfioPci;

/// <summary>
/// The function counts its resets in a register that no reset clears, so one user could tell by it what those before it did. Here it reads 0.
/// </summary>
internal sealed class ScratchVfioFunction(PciDevice device) : VfioPciFunction(device)
{
    private const uint RegisterBar = 0;
    private const ulong ResetCount = 0x40;
    private const int ResetCountSize = 4;

    /// <inheritdoc/>
    public override bool TryRead(uint region, ulong offset, Span<byte> destination, out Fault fault)
    {
        if (!base.TryRead(region, offset, destination, out fault))
            return false;
        if (region == RegisterBar && VfioPciOverlap.TryFind(offset, destination.Length, ResetCount, ResetCountSize, out var overlap))
            destination.Slice(overlap.BufferOffset, overlap.Count).Clear();
        return true;
    }
}
