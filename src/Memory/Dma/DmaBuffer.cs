using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Virtbus.Platform;

namespace Virtbus.Memory.Dma;

/// <summary>Memory that a driver of the host shares with its function. Unmapped and freed by <see cref="Dispose"/>.</summary>
/// <remarks>After a dispose no access of the function to it is under way. One driver thread at a time uses a part of it.</remarks>
public sealed class DmaBuffer : IDisposable
{
    private readonly IoAddressSpace _space;
    private readonly HostMemory _memory;
    private int _disposed;

    internal DmaBuffer(IoAddressSpace space, Iova address, HostMemory memory)
    {
        _space = space;
        _memory = memory;
        Address = address;
    }

    /// <summary>Where the function finds it.</summary>
    public Iova Address { get; }

    /// <summary>Bytes.</summary>
    public ulong Size => _memory.Size;

    /// <summary>The memory, for what is laid out in it, as a ring is. It goes with the buffer: who keeps it longer takes a reference.</summary>
    public HostMemory Memory => _memory;

    /// <summary>The memory's bytes, as the driver sees them.</summary>
    /// <exception cref="ObjectDisposedException">The buffer is freed.</exception>
    public Span<byte> Span
    {
        get
        {
            ObjectDisposedException.ThrowIf(Volatile.Read(ref _disposed) != 0, this);
            return new IoVector(_memory.Address, (nuint)_memory.Size).AsSpan();
        }
    }

    /// <summary>One 32-bit word of it, read or written as one, for indexes and ownership marks (acquire and release by <see cref="Volatile"/>).</summary>
    /// <param name="offset">Byte offset, a multiple of 4.</param>
    /// <exception cref="ArgumentOutOfRangeException">It is none, or lies outside.</exception>
    /// <exception cref="ObjectDisposedException">The buffer is freed.</exception>
    public ref uint Word(ulong offset)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(offset & 3, 0u, nameof(offset));
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(offset, Size);
        return ref Unsafe.As<byte, uint>(ref MemoryMarshal.GetReference(Span[(int)offset..]));
    }

    /// <summary>Unmaps the memory from the function and frees it. Works in any state of the group's ownership.</summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        if (!_space.TryUnmap(new IovaRange(Address, Size), out _, out var fault))
            throw new InvalidOperationException($"A DMA buffer at {Address} could not be unmapped: {fault.Message}.");
        _memory.Dispose();
    }
}
