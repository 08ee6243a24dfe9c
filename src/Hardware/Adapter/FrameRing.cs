namespace Virtbus.Hardware.Adapter;

/// <summary>
/// A bounded queue of Ethernet frames between one producer and one consumer, on any two threads; several producers take turns. Nothing is
/// allocated per frame once the slots have grown.
/// </summary>
internal sealed class FrameRing
{
    /// <summary>The longest frame that a slot takes, in bytes: 9,000 of payload with header and two VLAN tags.</summary>
    public const int MaxFrame = 9022;

    /// <summary>The shortest frame, in bytes: an Ethernet header.</summary>
    public const int MinFrame = 14;

    private const int SmallFrame = 1536;
    private readonly byte[][] _slots;
    private readonly int[] _lengths;
    private readonly int _mask;
    private int _head;
    private int _tail;

    /// <summary>Makes a ring.</summary>
    /// <param name="depth">How many frames it holds: a power of two, 2 to 32,768.</param>
    public FrameRing(int depth)
    {
        if (depth is < 2 or > 32768 || !int.IsPow2(depth))
            throw new ArgumentOutOfRangeException(nameof(depth), depth, "A ring holds a power of two frames, 2 to 32768.");
        _slots = new byte[depth][];
        _lengths = new int[depth];
        _mask = depth - 1;
    }

    /// <summary>How many frames the ring holds at most.</summary>
    public int Depth => _slots.Length;

    /// <summary>True when nothing waits.</summary>
    public bool IsEmpty => Volatile.Read(ref _tail) == Volatile.Read(ref _head);

    /// <summary>Puts a frame in. Producer only.</summary>
    /// <param name="frame">The frame, copied.</param>
    /// <returns>False when the ring is full or the frame's length is not one that Ethernet has.</returns>
    public bool TryWrite(ReadOnlySpan<byte> frame)
    {
        var tail = _tail;
        if (frame.Length is < MinFrame or > MaxFrame || tail - Volatile.Read(ref _head) == _slots.Length)
            return false;
        ref var slot = ref _slots[tail & _mask];
        // A slot grows once, to the size class of the longest frame that it has seen.
        if (slot is null || slot.Length < frame.Length)
            slot = new byte[frame.Length <= SmallFrame ? SmallFrame : MaxFrame];
        frame.CopyTo(slot);
        _lengths[tail & _mask] = frame.Length;
        Volatile.Write(ref _tail, tail + 1);
        return true;
    }

    /// <summary>Looks at the oldest frame. Consumer only. The frame is valid until <see cref="Release"/>.</summary>
    /// <param name="frame">The frame.</param>
    /// <returns>False when nothing waits.</returns>
    public bool TryPeek(out ReadOnlySpan<byte> frame)
    {
        var head = _head;
        if (head == Volatile.Read(ref _tail))
        {
            frame = default;
            return false;
        }
        frame = _slots[head & _mask].AsSpan(0, _lengths[head & _mask]);
        return true;
    }

    /// <summary>Takes the frame that <see cref="TryPeek"/> showed out. Consumer only.</summary>
    public void Release() => Volatile.Write(ref _head, _head + 1);
}
