using System.Numerics;
using Virtbus.Platform;

namespace Virtbus.Wire.VfioUser;

/// <summary>
/// Messages that are sent together: replies gather here as long as requests are at hand, and go out in one call. Used by one thread.
/// </summary>
internal sealed class VfioUserOutbox(VfioUserChannel channel)
{
    private const int InitialSize = 64 << 10;
    private byte[] _buffer = GC.AllocateUninitializedArray<byte>(InitialSize, pinned: true);
    private int _length;

    /// <summary>Makes room for one message; what is waiting is sent when there is none.</summary>
    /// <param name="size">Bytes, at most those of the largest message.</param>
    /// <param name="bytes">Where it goes, to be kept by <see cref="Commit"/>.</param>
    /// <returns>False when the connection is over.</returns>
    internal bool TryReserve(int size, out Span<byte> bytes)
    {
        bytes = default;
        if (_buffer.Length - _length < size)
        {
            if (!TryFlush())
                return false;
            if (_buffer.Length < size)
                _buffer = GC.AllocateUninitializedArray<byte>((int)BitOperations.RoundUpToPowerOf2((uint)size), pinned: true);
        }

        bytes = _buffer.AsSpan(_length, size);
        return true;
    }

    /// <summary>From the message reserved last on.</summary>
    internal Span<byte> Reserved => _buffer.AsSpan(_length);

    /// <summary>Keeps the first bytes of what was reserved last.</summary>
    internal void Commit(int size) => _length += size;

    /// <summary>Sends what waits, and then the message reserved last, with descriptors.</summary>
    /// <param name="size">Its size.</param>
    /// <param name="descriptors">Its descriptors; the caller keeps its own.</param>
    internal bool TrySend(int size, ReadOnlySpan<FileDescriptor> descriptors)
    {
        // A receiver takes descriptors for those of the last message that starts in what it got: nothing goes out with this one.
        var start = _length;
        if (start > 0 && !channel.TrySend(_buffer.AsSpan(0, start), default))
            return false;
        _length = 0;
        return channel.TrySend(_buffer.AsSpan(start, size), descriptors);
    }

    /// <summary>Sends what waits.</summary>
    /// <returns>False when the connection is over.</returns>
    internal bool TryFlush()
    {
        if (_length == 0)
            return true;
        var length = _length;
        _length = 0;
        return channel.TrySend(_buffer.AsSpan(0, length), default);
    }
}
