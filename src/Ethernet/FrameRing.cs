using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Virtbus.Ethernet;

/// <summary>
/// A bounded queue of Ethernet frames between one producer and one consumer, on any two threads; several producers take turns. The frames lie one
/// behind the other in one piece of memory, which is allocated with the first of them, and nothing later.
/// </summary>
public sealed class FrameRing
{
    /// <summary>Bytes that a ring has when nothing else is said: 256 KiB.</summary>
    public const int DefaultBytes = 256 * 1024;

    private const int MinBytes = 256 * 1024;
    private const int MaxBytes = 1 << 30;
    // More than a head has, so that there is always room for one before the memory's end.
    private const int Alignment = 32;
    // Instead of a length: the next frame is at the memory's start, as this one did not fit before its end.
    private const int Turn = -1;

    private readonly int _depth;
    private readonly int _bytes;
    private byte[]? _memory;
    private Side _producer;
    private Side _consumer;

    /// <summary>Makes a ring.</summary>
    /// <param name="depth">How many frames it holds at most: a power of two, 2 to 32,768.</param>
    public FrameRing(int depth)
        : this(depth, DefaultBytes)
    {
    }

    /// <summary>Makes a ring of some size.</summary>
    /// <param name="depth">How many frames it holds at most: a power of two, 2 to 32,768.</param>
    /// <param name="bytes">How many bytes they have at most, with some for each of them: a power of two, 256 KiB (three of the longest) to 1 GiB.</param>
    public FrameRing(int depth, int bytes)
    {
        if (depth is < 2 or > 32768 || !int.IsPow2(depth))
            throw new ArgumentOutOfRangeException(nameof(depth), depth, "A ring holds a power of two frames, 2 to 32768.");
        if (bytes is < MinBytes or > MaxBytes || !int.IsPow2(bytes))
            throw new ArgumentOutOfRangeException(nameof(bytes), bytes, "A ring has a power of two bytes, 262144 to 1073741824.");
        _depth = depth;
        _bytes = bytes;
    }

    /// <summary>How many frames the ring holds at most.</summary>
    public int Depth => _depth;

    /// <summary>How many bytes the frames in it have at most, with 63 or less for each of them.</summary>
    public int Bytes => _bytes;

    /// <summary>True when nothing waits.</summary>
    public bool IsEmpty => Volatile.Read(ref _producer.Shared) == Volatile.Read(ref _consumer.Shared);

    private static int HeadSize => Align(Unsafe.SizeOf<Head>());

    /// <summary>Puts a frame in, with its offload data. Producer only.</summary>
    /// <param name="frame">The frame, copied.</param>
    /// <returns>False when the ring is full or the frame's length is not one that Ethernet has.</returns>
    public bool TryWrite(in EthernetFrame frame)
    {
        if (!TryReserve(frame.Length, frame.Offload, out var destination))
            return false;
        frame.Bytes.CopyTo(destination);
        Commit();
        return true;
    }

    /// <summary>Finds room for a frame that the producer then writes itself, and puts in with <see cref="Commit"/>. Producer only.</summary>
    /// <param name="length">Bytes of the frame.</param>
    /// <param name="offload">Its offload data.</param>
    /// <param name="destination">Where its bytes go: as many, of any content. One that is not put in is given up with the next.</param>
    /// <returns>False when the ring is full or the length is not one that Ethernet has.</returns>
    public bool TryReserve(int length, scoped in FrameOffload offload, out Span<byte> destination)
    {
        destination = default;
        if (!EthernetFrame.HasValidLength(length, offload))
            return false;
        var size = HeadSize + Align(length);
        var from = _producer.Shared;
        var place = (int)from & (_bytes - 1);
        var skipped = place + size > _bytes ? _bytes - place : 0;
        if (!HasRoom(from, skipped + size))
        {
            _producer.Other = Volatile.Read(ref _consumer.Shared);
            _producer.OtherFrames = Volatile.Read(ref _consumer.Frames);
            if (!HasRoom(from, skipped + size))
                return false;
        }
        var memory = _memory ??= GC.AllocateUninitializedArray<byte>(_bytes);
        if (skipped > 0)
        {
            HeadAt(memory, place).Length = Turn;
            place = 0;
        }
        HeadAt(memory, place) = new Head { Length = length, Offload = offload };
        _producer.Next = from + skipped + size;
        destination = memory.AsSpan(place + HeadSize, length);
        return true;
    }

    /// <summary>Puts in what <see cref="TryReserve"/> found room for. Producer only, once for each.</summary>
    public void Commit()
    {
        _producer.Frames++;
        Volatile.Write(ref _producer.Shared, _producer.Next);
    }

    /// <summary>Looks at the oldest frame. Consumer only. The frame is valid until <see cref="Release"/>.</summary>
    /// <param name="frame">The frame.</param>
    /// <returns>False when nothing waits.</returns>
    public bool TryPeek(out EthernetFrame frame)
    {
        var from = _consumer.Shared;
        if (from == _consumer.Other)
        {
            _consumer.Other = Volatile.Read(ref _producer.Shared);
            if (from == _consumer.Other)
            {
                frame = default;
                return false;
            }
        }
        var memory = _memory!;
        var place = (int)from & (_bytes - 1);
        var skipped = 0;
        if (HeadAt(memory, place).Length == Turn)
        {
            skipped = _bytes - place;
            place = 0;
        }
        ref var head = ref HeadAt(memory, place);
        _consumer.Next = from + skipped + HeadSize + Align(head.Length);
        frame = new EthernetFrame(memory.AsSpan(place + HeadSize, head.Length), head.Offload);
        return true;
    }

    /// <summary>Takes the frame that <see cref="TryPeek"/> showed out. Consumer only, once for each.</summary>
    public void Release()
    {
        Volatile.Write(ref _consumer.Frames, _consumer.Frames + 1);
        Volatile.Write(ref _consumer.Shared, _consumer.Next);
    }

    private static int Align(int bytes) => (bytes + Alignment - 1) & -Alignment;

    private static ref Head HeadAt(byte[] memory, int place) => ref MemoryMarshal.AsRef<Head>(memory.AsSpan(place, Unsafe.SizeOf<Head>()));

    private bool HasRoom(long from, int size) => from + size - _producer.Other <= _bytes && _producer.Frames - _producer.OtherFrames < _depth;

    // Positions count on for ever. Each side has a cache line of its own, with what it last saw of the other.
    [StructLayout(LayoutKind.Sequential, Size = 128)]
    private struct Side
    {
        public long Shared;
        public long Next;
        public long Other;
        public int Frames;
        public int OtherFrames;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct Head
    {
        public int Length;
        public FrameOffload Offload;
    }
}
