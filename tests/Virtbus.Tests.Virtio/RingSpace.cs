using Virtbus.Memory;
using Virtbus.Memory.Dma;

namespace Virtbus.Tests.Virtio;

/// <summary>Memory that both sides of a ring reach: the driver as it is, the device by DMA.</summary>
internal sealed class RingSpace : IDisposable
{
    private readonly IoAddressSpace _space = new();

    /// <param name="start">Where the device finds it.</param>
    /// <param name="size">Bytes.</param>
    internal RingSpace(ulong start, ulong size)
    {
        Memory = HostMemory.Allocate("virtbus-test", size, out var file);
        file.Dispose();
        Assert.True(_space.TryMap(new Iova(start), size, Memory, 0, DmaAccess.ReadWrite, out _));
        Dma.Attach(_space);
    }

    internal HostMemory Memory { get; }

    internal StandaloneDma Dma { get; } = new("test");

    public void Dispose()
    {
        _space.Dispose();
        Memory.Dispose();
    }
}
