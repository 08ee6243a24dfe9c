using System.Collections.Concurrent;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;

namespace Virtbus.Testing;

/// <summary>
/// A slot for one PCI function, with no bus and no driver: it notes the messages and the level of the line, and has memory that the function's
/// DMA reaches. What <c>PciFunction.Plug</c> is given in a test of a device model alone.
/// </summary>
public sealed class FunctionSlot : IPciPort, IDisposable
{
    private readonly IommuGroup _group = new(1);
    private readonly IoAddressSpace _space = new();

    /// <summary>Makes a slot with <see cref="MemorySize"/> bytes of memory at <see cref="MemoryAddress"/>; the function is bus master.</summary>
    /// <exception cref="Platform.VirtbusException">ENOMEM: the host has no memory.</exception>
    public FunctionSlot()
    {
        Dma = new DmaPort("slot", _group) { IsBusMaster = true };
        Memory = HostMemory.Allocate("slot", MemorySize, out var file);
        file.Dispose();
        if (!_space.TryMap(new Iova(MemoryAddress), MemorySize, Memory, 0, DmaAccess.ReadWrite, out var fault)
            || !_group.TryClaimForUser(this, "test", out fault) || !_group.TryAttach(this, Dma, _space, out fault))
            throw new Platform.VirtbusException(fault.Errno, $"The slot has no memory: {fault.Message}.");
    }

    /// <summary>Where the function finds the memory.</summary>
    public const ulong MemoryAddress = 0x1_0000_0000;

    /// <summary>Bytes of it.</summary>
    public const ulong MemorySize = 0x20000;

    /// <inheritdoc/>
    public DmaPort Dma { get; }

    /// <summary>The memory, from its first byte.</summary>
    public HostMemory Memory { get; }

    /// <summary>The messages that came, oldest first.</summary>
    public ConcurrentQueue<(ulong Address, uint Data)> Messages { get; } = new();

    /// <summary>Whether the interrupt line is asserted.</summary>
    public bool Line { get; private set; }

    /// <summary>How often it has changed.</summary>
    public int LineChanges { get; private set; }

    /// <summary>Called for each message, on the thread that sends it.</summary>
    public Action? OnMessage { get; set; }

    /// <summary>Called for each change of the line, on the thread that makes it.</summary>
    public Action<bool>? OnLine { get; set; }

    /// <inheritdoc/>
    public void SendMessage(ulong address, uint data)
    {
        Messages.Enqueue((address, data));
        OnMessage?.Invoke();
    }

    /// <inheritdoc/>
    /// <exception cref="ExpectationException">The function sets the level that the line has: a bug of it.</exception>
    public void SetInterruptLine(bool asserted)
    {
        if (asserted == Line)
            throw new ExpectationException($"The function sets its line to {(asserted ? "asserted" : "not asserted")}, which it is.");
        Line = asserted;
        LineChanges++;
        OnLine?.Invoke(asserted);
    }

    /// <summary>Maps more for the function's DMA, 64 KiB that are reached by calls.</summary>
    /// <param name="address">Where the function finds it.</param>
    /// <param name="memory">What it reaches there.</param>
    /// <exception cref="ExpectationException">Something is there already.</exception>
    public void Map(ulong address, IRemoteMemory memory)
    {
        if (!_space.TryMap(new IovaRange(new Iova(address), 0x10000), memory, DmaAccess.ReadWrite, out var fault))
            throw new ExpectationException($"Nothing can be mapped at 0x{address:x}: {fault.Message}.");
    }

    /// <summary>Takes <see cref="Memory"/> away from the function's DMA. Returns when the function has let go of it.</summary>
    /// <exception cref="ExpectationException">It is away.</exception>
    public void Unmap()
    {
        if (!_space.TryUnmap(new IovaRange(new Iova(MemoryAddress), MemorySize), out var bytes, out var fault) || bytes == 0)
            throw new ExpectationException($"The memory can't be unmapped: {fault.Message}.");
    }

    /// <summary>Gives <see cref="Memory"/> back after <see cref="Unmap"/>.</summary>
    /// <param name="memory">Who reaches it, by calls; null for the memory itself.</param>
    /// <exception cref="ExpectationException">It is there.</exception>
    public void Remap(IRemoteMemory? memory = null)
    {
        var range = new IovaRange(new Iova(MemoryAddress), MemorySize);
        if (!(memory is null ? _space.TryMap(range.Start, range.Size, Memory, 0, DmaAccess.ReadWrite, out var fault) : _space.TryMap(range, memory, DmaAccess.ReadWrite, out fault)))
            throw new ExpectationException($"The memory can't be mapped: {fault.Message}.");
    }

    /// <summary>Lets a PASID of the function reach what the function reaches.</summary>
    /// <param name="pasid">1 to 2^20 - 1.</param>
    /// <exception cref="ExpectationException">It can't be attached.</exception>
    public void MapPasid(uint pasid)
    {
        if (!_group.TryAttach(this, Dma.ForPasid(pasid), _space, out var fault))
            throw new ExpectationException($"PASID {pasid} can't be attached: {fault.Message}.");
    }

    /// <summary>Takes the memory away. The function is out of the slot by then.</summary>
    public void Dispose()
    {
        _group.ReleaseUser(this);
        _space.Dispose();
        Memory.Dispose();
    }
}
