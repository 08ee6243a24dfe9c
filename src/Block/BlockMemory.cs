using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>
/// Memory for the data of requests that a disk's hardware reaches: what is in it is moved without a copy, where its place and length allow that. The hardware may
/// write to it at any time as long as the disk is there. Freed once, by who asked for it, when no request is in work with it. Any thread.
/// </summary>
public sealed class BlockMemory : IDisposable
{
    private readonly HostMemory _memory;
    private readonly Action _released;
    private int _disposed;

    /// <summary>Makes one, for a back end.</summary>
    /// <param name="memory">The memory, with a reference that is this object's from now on.</param>
    /// <param name="released">Called once, when its user frees it.</param>
    public BlockMemory(HostMemory memory, Action released)
    {
        ArgumentNullException.ThrowIfNull(memory);
        ArgumentNullException.ThrowIfNull(released);
        _memory = memory;
        _released = released;
    }

    /// <summary>Length in bytes.</summary>
    public ulong Length => _memory.Size;

    /// <summary>Names a part of it.</summary>
    /// <param name="offset">Its first byte.</param>
    /// <param name="length">How many bytes.</param>
    /// <returns>The run, for <see cref="BlockRequest.SetRuns"/>; valid until this object is disposed, also when the disk has gone.</returns>
    public IoVector Take(ulong offset, int length) => _memory.Take(offset, length);

    /// <summary>Frees it.</summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        _released();
        _memory.Dispose();
    }
}
