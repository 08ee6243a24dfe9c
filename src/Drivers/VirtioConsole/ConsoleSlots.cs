using Virtbus.Memory;
using Virtbus.Memory.Dma;

namespace Virtbus.Drivers.VirtioConsole;

/// <summary>The buffers of one queue, in memory that the device reaches.</summary>
/// <param name="memory">The memory.</param>
/// <param name="offset">The first byte of them there.</param>
internal readonly struct ConsoleSlots(DmaBuffer memory, int offset)
{
    internal const int Count = 32;
    internal const int Size = 512;
    internal const int Bytes = Count * Size;

    /// <summary>Where the device finds one.</summary>
    internal Iova Address(int slot) => new(memory.Address.Value + (ulong)(offset + (slot * Size)));

    /// <summary>What stands in one.</summary>
    internal Span<byte> Span(int slot) => memory.Span.Slice(offset + (slot * Size), Size);
}
