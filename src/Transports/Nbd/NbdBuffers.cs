using System.Numerics;
using Virtbus.Platform;

namespace Virtbus.Transports.Nbd;

/// <summary>
/// The memory of one connection's requests: buffers in sizes of powers of two, kept for the next request. Nothing in them was ever another
/// connection's. Used by one thread at a time.
/// </summary>
/// <remarks>
/// A connection has <see cref="Reserve"/> for itself, so that no other one takes the last of what it needs; what it has beyond that, at most
/// <see cref="Most"/>, all connections of the process share. Who gets none waits until requests of its own have ended.
/// </remarks>
internal sealed class NbdBuffers : IDisposable
{
    /// <summary>The most bytes of one connection.</summary>
    internal const long Most = 64L << 20;

    /// <summary>The bytes that a connection has in any case.</summary>
    internal const long Reserve = 8L << 20;

    /// <summary>The most bytes that all connections have beyond what each has in any case.</summary>
    internal const long SharedMost = 256L << 20;

    private const int LeastBits = 12;
    private const int Classes = 14;
    private static long s_shared;

    private readonly int _depth;
    private readonly AlignedBuffer[][] _free = new AlignedBuffer[Classes][];
    private readonly int[] _count = new int[Classes];
    private long _own;
    private long _charged;

    /// <param name="depth">The most buffers that are in use at once.</param>
    internal NbdBuffers(int depth) => _depth = depth;

    /// <summary>How many bytes all connections of the process have beyond their reserves.</summary>
    internal static long Shared => Interlocked.Read(ref s_shared);

    /// <summary>How many bytes the connection has, those that are in use included.</summary>
    internal long Own => _own;

    /// <summary>Takes a buffer.</summary>
    /// <param name="length">How many bytes at least, 1 to <see cref="NbdProtocol.MaxPayload"/>.</param>
    /// <returns>The buffer, to be given back; null when there is no room at the moment.</returns>
    internal AlignedBuffer? TryTake(int length)
    {
        var size = ClassOf(length);
        if (_count[size] > 0)
            return _free[size][--_count[size]];
        return TryMake(size) ?? (Trim() ? TryMake(size) : null);
    }

    /// <summary>Gives a buffer back.</summary>
    internal void Return(AlignedBuffer buffer)
    {
        var size = ClassOf(buffer.Length);
        (_free[size] ??= new AlignedBuffer[_depth])[_count[size]++] = buffer;
    }

    /// <summary>The connection has nothing to do: what it has of the shared memory is for others.</summary>
    internal void Rest()
    {
        if (_charged > 0)
            Trim();
    }

    public void Dispose() => Trim();

    private static int ClassOf(int length) => Math.Max(0, BitOperations.Log2((uint)Math.Max(length - 1, 1)) + 1 - LeastBits);

    private AlignedBuffer? TryMake(int sizeClass)
    {
        var size = 1 << (sizeClass + LeastBits);
        var own = _own + size;
        if (own > Most || !TryCharge(Math.Max(0, own - Reserve)))
            return null;
        try
        {
            var buffer = new AlignedBuffer(size, Environment.SystemPageSize);
            // A back end that leaves a buffer as it was shows a client nothing of this process.
            buffer.Take(size).AsSpan().Clear();
            _own = own;
            return buffer;
        }
        catch (OutOfMemoryException)
        {
            TryCharge(Math.Max(0, _own - Reserve));
            return null;
        }
    }

    // Has the connection hold so much of what is shared.
    private bool TryCharge(long wanted)
    {
        var more = wanted - _charged;
        if (more != 0 && Interlocked.Add(ref s_shared, more) > SharedMost && more > 0)
        {
            Interlocked.Add(ref s_shared, -more);
            return false;
        }

        _charged = wanted;
        return true;
    }

    // Whether there was anything to let go of.
    private bool Trim()
    {
        var before = _own;
        for (var i = 0; i < Classes; i++)
        {
            while (_count[i] > 0)
            {
                var buffer = _free[i][--_count[i]];
                _own -= buffer.Length;
                buffer.Dispose();
            }
        }

        TryCharge(Math.Max(0, _own - Reserve));
        return _own < before;
    }
}
