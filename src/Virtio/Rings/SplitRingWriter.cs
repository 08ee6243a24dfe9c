using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Virtbus.Memory;

namespace Virtbus.Virtio.Rings;

/// <summary>
/// The words of a split ring in memory as its driver writes them (VIRTIO 1.2, 2.7), without rules: a test of a device writes wrong ones
/// too. <see cref="SplitDriverRing"/> is the driver that keeps the rules. One thread uses it.
/// </summary>
public sealed class SplitRingWriter
{
    private readonly HostMemory _memory;
    private readonly ulong _descriptors;
    private readonly ulong _available;
    private readonly ulong _used;
    private readonly int _size;
    private readonly bool _eventIndex;
    private ushort _announced;

    internal SplitRingWriter(HostMemory memory, Iova start, ulong offset, int size, bool eventIndex, bool indirect, bool inOrder, uint usedAlignment)
    {
        _memory = memory;
        _size = size;
        _eventIndex = eventIndex;
        _descriptors = offset;
        _available = _descriptors + SplitRing.DescriptorAreaSize(size);
        _used = offset + SplitDriverRing.UsedOffset(size, usedAlignment);
        memory.Write(offset, new byte[SplitDriverRing.BytesFor(size, usedAlignment)]);
        Layout = new RingLayout(
            size,
            new Iova(start.Value + _descriptors),
            new Iova(start.Value + _available),
            new Iova(start.Value + _used),
            eventIndex,
            indirect,
            inOrder);
    }

    internal RingLayout Layout { get; }

    /// <summary>Free-running index of the next place in the available ring.</summary>
    public ushort NextAvailable { get; private set; }

    /// <summary>The device's used index as it stands in the ring.</summary>
    public ushort UsedIndex => Volatile.Read(ref Word(_used + 2));

    /// <summary>The used ring's flags as the device wrote them.</summary>
    public ushort UsedFlags => Volatile.Read(ref Word(_used));

    /// <summary>The avail_event field as the device wrote it.</summary>
    public ushort AvailableEvent => Volatile.Read(ref Word(_used + 4 + (8 * (ulong)_size)));

    /// <summary>Writes one descriptor of the ring's table.</summary>
    /// <param name="index">Which, below the queue size.</param>
    /// <param name="address">Its address field.</param>
    /// <param name="length">Its length field.</param>
    /// <param name="flags">Its flags field.</param>
    /// <param name="next">Its next field.</param>
    public void WriteDescriptor(int index, Iova address, uint length, ushort flags, ushort next) =>
        EncodeDescriptor(_memory, _descriptors + ((ulong)index * SplitRing.DescriptorSize), address, length, flags, next);

    /// <summary>Writes one descriptor anywhere: an indirect table's.</summary>
    /// <param name="memory">The memory.</param>
    /// <param name="offset">Byte offset there.</param>
    /// <param name="address">Its address field.</param>
    /// <param name="length">Its length field.</param>
    /// <param name="flags">Its flags field.</param>
    /// <param name="next">Its next field.</param>
    public static void EncodeDescriptor(HostMemory memory, ulong offset, Iova address, uint length, ushort flags, ushort next)
    {
        ArgumentNullException.ThrowIfNull(memory);
        // Two stores, and no copy that would wait for smaller ones.
        var bytes = memory.Run(offset, SplitRing.DescriptorSize);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, address.Value);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes[8..], length | ((ulong)flags << 32) | ((ulong)next << 48));
    }

    /// <summary>Puts a head into the available ring, whatever its descriptors say.</summary>
    /// <param name="head">The head; also one that the ring does not have.</param>
    public void AddHead(ushort head)
    {
        Word(_available + 4 + (2 * (ulong)(NextAvailable & (_size - 1)))) = head;
        NextAvailable++;
    }

    /// <summary>Sets the available index, also to a value that makes no sense.</summary>
    /// <param name="index">The index.</param>
    /// <returns>Whether the device wants a kick.</returns>
    public bool PublishIndex(ushort index)
    {
        var old = _announced;
        // Release before, full fence after: the entries are out before the index, the index before the device's wish is read (2.7.13.3).
        ShowIndex(index);
        Interlocked.MemoryBarrier();
        _announced = index;
        return _eventIndex
            ? SplitRing.NeedEvent(AvailableEvent, index, old)
            : (UsedFlags & SplitRing.VIRTQ_USED_F_NO_NOTIFY) == 0;
    }

    /// <summary>The index alone; the device's wish is for <see cref="PublishIndex"/>.</summary>
    internal void ShowIndex(ushort index) => Volatile.Write(ref Word(_available + 2), index);

    /// <summary>Writes used_event, or the flags of the available ring where there are no event indexes.</summary>
    /// <param name="wanted">Whether the driver wants to be told.</param>
    /// <param name="nextUsed">Free-running index of the used buffer that it waits for.</param>
    internal void RequestCalls(bool wanted, ushort nextUsed)
    {
        if (_eventIndex)
            Volatile.Write(ref Word(_available + 4 + (2 * (ulong)_size)), (ushort)(wanted ? nextUsed : nextUsed - 1));
        else
            Volatile.Write(ref Word(_available), wanted ? (ushort)0 : SplitRing.VIRTQ_AVAIL_F_NO_INTERRUPT);
        // Full fence: the wish is out before the used index is read again, or both sides may sleep (2.7.10).
        Interlocked.MemoryBarrier();
    }

    /// <summary>The used element of a free-running index, read once: the head below, the length above.</summary>
    internal ulong UsedElement(ushort index)
    {
        // The used ring is aligned to 4 bytes only, so an element is two words; the index that was read before announces both.
        var at = _used + 4 + (8 * (ulong)(index & (_size - 1)));
        return DoubleWord(at) | ((ulong)DoubleWord(at + 4) << 32);
    }

    // Memory checks range and life at each access; the areas are aligned to their words.
    private ref ushort Word(ulong offset) => ref Unsafe.As<byte, ushort>(ref MemoryMarshal.GetReference(_memory.Run(offset, 2)));

    private uint DoubleWord(ulong offset) => Volatile.Read(ref Unsafe.As<byte, uint>(ref MemoryMarshal.GetReference(_memory.Run(offset, 4))));
}
