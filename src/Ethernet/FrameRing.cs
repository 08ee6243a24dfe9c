namespace Virtbus.Ethernet;

/// <summary>
/// A bounded queue of Ethernet frames between one producer and one consumer, on any two threads; several producers take turns. Nothing is
/// allocated per frame once the slots have grown.
/// </summary>
public sealed class FrameRing
{
    private const int SmallFrame = 1536;
    private readonly byte[][] _slots;
    private readonly Head[] _heads;
    private readonly int _mask;
    private int _first;
    private int _end;

    /// <summary>Makes a ring.</summary>
    /// <param name="depth">How many frames it holds: a power of two, 2 to 32,768.</param>
    public FrameRing(int depth)
    {
        if (depth is < 2 or > 32768 || !int.IsPow2(depth))
            throw new ArgumentOutOfRangeException(nameof(depth), depth, "A ring holds a power of two frames, 2 to 32768.");
        _slots = new byte[depth][];
        _heads = new Head[depth];
        _mask = depth - 1;
    }

    /// <summary>How many frames the ring holds at most.</summary>
    public int Depth => _slots.Length;

    /// <summary>True when nothing waits.</summary>
    public bool IsEmpty => Volatile.Read(ref _end) == Volatile.Read(ref _first);

    /// <summary>Puts a frame in, with its offload data. Producer only.</summary>
    /// <param name="frame">The frame, copied.</param>
    /// <returns>False when the ring is full or the frame's length is not one that Ethernet has.</returns>
    public bool TryWrite(in EthernetFrame frame)
    {
        var end = _end;
        if (!frame.IsValid || end - Volatile.Read(ref _first) == _slots.Length)
            return false;
        ref var slot = ref _slots[end & _mask];
        // A slot grows to the size class of the longest frame that it has seen.
        if (slot is null || slot.Length < frame.Length)
            slot = new byte[frame.Length <= SmallFrame ? SmallFrame : frame.Length <= EthernetFrame.MaxLength ? EthernetFrame.MaxLength : EthernetFrame.MaxUncutLength];
        frame.Bytes.CopyTo(slot);
        _heads[end & _mask] = new Head(frame.Length, frame.Offload);
        Volatile.Write(ref _end, end + 1);
        return true;
    }

    /// <summary>Looks at the oldest frame. Consumer only. The frame is valid until <see cref="Release"/>.</summary>
    /// <param name="frame">The frame.</param>
    /// <returns>False when nothing waits.</returns>
    public bool TryPeek(out EthernetFrame frame)
    {
        var first = _first;
        if (first == Volatile.Read(ref _end))
        {
            frame = default;
            return false;
        }
        ref var head = ref _heads[first & _mask];
        frame = new EthernetFrame(_slots[first & _mask].AsSpan(0, head.Length), head.Offload);
        return true;
    }

    /// <summary>Takes the frame that <see cref="TryPeek"/> showed out. Consumer only.</summary>
    public void Release() => Volatile.Write(ref _first, _first + 1);

    private readonly record struct Head(int Length, FrameOffload Offload);
}
