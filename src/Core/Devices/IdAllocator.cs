using System.Numerics;
using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>
/// Hands out the lowest free number, as the kernel's ida does. An id is given back when the last reference to its device is gone
/// (release), not when the device is deleted (DM-02). Safe to use from any thread.
/// </summary>
public sealed class IdAllocator
{
    private readonly Lock _lock = new();
    private readonly uint _limit;
    private ulong[] _words = new ulong[1];
    private int _firstFree;

    /// <summary>Makes an allocator of the ids 0 to <paramref name="limit"/> - 1.</summary>
    /// <param name="limit">How many ids there are; at least 1.</param>
    public IdAllocator(uint limit = int.MaxValue)
    {
        ArgumentOutOfRangeException.ThrowIfZero(limit);
        _limit = limit;
    }

    /// <summary>How many ids are out.</summary>
    public int Count { get; private set; }

    /// <summary>Takes the lowest free id.</summary>
    /// <exception cref="VirtbusException">ENOSPC: every id is out.</exception>
    public uint Allocate()
    {
        lock (_lock)
        {
            var w = _firstFree;
            while (w < _words.Length && _words[w] == ulong.MaxValue)
                w++;
            _firstFree = w;
            if (w == _words.Length)
                Array.Resize(ref _words, _words.Length * 2);
            var bit = BitOperations.TrailingZeroCount(~_words[w]);
            var id = ((uint)w * 64) + (uint)bit;
            if (id >= _limit)
                throw new VirtbusException(Errno.ENOSPC, $"All {_limit} ids are in use. Release a device that holds one first.");
            _words[w] |= 1UL << bit;
            Count++;
            return id;
        }
    }

    /// <summary>Gives an id back.</summary>
    /// <param name="id">An id that is out.</param>
    /// <exception cref="InvalidOperationException">The id is not out: it was freed twice, or never allocated.</exception>
    public void Free(uint id)
    {
        lock (_lock)
        {
            var w = (int)(id / 64);
            var mask = 1UL << (int)(id % 64);
            if (w >= _words.Length || (_words[w] & mask) == 0)
                throw new InvalidOperationException($"Id {id} is not allocated.");
            _words[w] &= ~mask;
            Count--;
            if (w < _firstFree)
                _firstFree = w;
        }
    }
}
