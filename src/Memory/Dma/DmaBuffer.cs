namespace Virtbus.Memory.Dma;

/// <summary>Memory that a driver of the host shares with its function. Unmapped and freed by <see cref="Dispose"/>.</summary>
/// <remarks>After a dispose no access of the function to it is under way. One driver thread at a time uses a part of it.</remarks>
public sealed class DmaBuffer : IDisposable
{
    internal DmaBuffer()
    {
    }

    /// <summary>Where the function finds it.</summary>
    public Iova Address => throw new NotSupportedException();

    /// <summary>Bytes.</summary>
    public ulong Size => throw new NotSupportedException();

    /// <summary>The memory, as the driver sees it.</summary>
    public Span<byte> Span => throw new NotSupportedException();

    /// <summary>One 32-bit word of it, read or written as one, for indexes and ownership marks (acquire and release by <see cref="Volatile"/>).</summary>
    /// <param name="offset">Byte offset, a multiple of 4.</param>
    public ref uint Word(ulong offset) => throw new NotSupportedException();

    /// <inheritdoc/>
    public void Dispose() => throw new NotSupportedException();
}
