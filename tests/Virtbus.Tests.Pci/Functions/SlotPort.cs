using System.Collections.Concurrent;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;

namespace Virtbus.Tests.Pci.Functions;

/// <summary>A slot that notes what the function in it does, with memory behind it that belongs to the test.</summary>
internal sealed class SlotPort : IPciPort, IDisposable
{
    private readonly IommuGroup _group = new(1);
    private readonly IoAddressSpace _space = new();
    private readonly HostMemory _memory;

    internal SlotPort()
    {
        Dma = new DmaPort("slot", _group) { IsBusMaster = true };
        _memory = HostMemory.Allocate("slot", MemorySize, out var file);
        file.Dispose();
        Assert.True(_space.TryMap(new Iova(MemoryAddress), MemorySize, _memory, 0, DmaAccess.ReadWrite, out _));
        Assert.True(_group.TryClaimForUser(this, "test", out _));
        Assert.True(_group.TryAttach(this, Dma, _space, out _));
    }

    internal const ulong MemoryAddress = 0x1_0000_0000;
    internal const ulong MemorySize = 0x20000;

    public DmaPort Dma { get; }

    internal ConcurrentQueue<(ulong Address, uint Data)> Messages { get; } = new();

    internal bool Line { get; private set; }

    internal int LineChanges { get; private set; }

    internal Action? OnMessage { get; set; }

    internal Action<bool>? OnLine { get; set; }

    internal HostMemory Memory => _memory;

    public void SendMessage(ulong address, uint data)
    {
        Messages.Enqueue((address, data));
        OnMessage?.Invoke();
    }

    public void SetInterruptLine(bool asserted)
    {
        Assert.NotEqual(asserted, Line);
        Line = asserted;
        LineChanges++;
        OnLine?.Invoke(asserted);
    }

    public void Dispose()
    {
        _group.ReleaseUser(this);
        _space.Dispose();
        _memory.Dispose();
    }

    internal void Map(ulong address, IRemoteMemory memory) =>
        Assert.True(_space.TryMap(new IovaRange(new Iova(address), 0x10000), memory, DmaAccess.ReadWrite, out _));

    internal void MapPasid(uint pasid) => Assert.True(_group.TryAttach(this, Dma.ForPasid(pasid), _space, out _));
}
