using System.Buffers.Binary;
using Virtbus.Memory;

namespace Virtbus.Virtio.Rings;

/// <summary>
/// The driver side of a split virtqueue, as a guest has it: for tests of a device, and for a device model that is itself a driver of
/// another. Besides whole chains it writes single descriptors and indexes, wrong ones too. One thread uses it.
/// </summary>
public sealed class SplitDriverRing
{
    private readonly HostMemory _memory;
    private readonly ulong _descriptors;
    private readonly ulong _available;
    private readonly ulong _used;
    private readonly int _size;
    private readonly bool _eventIndex;
    private readonly Stack<ushort> _free = new();
    private readonly List<ushort>[] _chains;
    private ushort _nextAvailable;
    private ushort _announced;
    private ushort _nextUsed;

    /// <summary>Lays a ring out in memory and clears it.</summary>
    /// <param name="memory">Where the ring lies; the driver uses it as long as its owner keeps it.</param>
    /// <param name="start">The device's address of the memory's first byte.</param>
    /// <param name="offset">Byte offset of the ring, a multiple of 16; it takes <see cref="BytesFor"/> bytes.</param>
    /// <param name="size">Queue size, a power of two.</param>
    /// <param name="eventIndex">Whether VIRTIO_F_EVENT_IDX is in use.</param>
    /// <param name="indirect">Whether VIRTIO_F_INDIRECT_DESC is in use.</param>
    public SplitDriverRing(HostMemory memory, Iova start, ulong offset, int size, bool eventIndex, bool indirect)
    {
        _memory = memory;
        _size = size;
        _eventIndex = eventIndex;
        _descriptors = offset;
        _available = _descriptors + SplitRing.DescriptorAreaSize(size);
        _used = (_available + SplitRing.DriverAreaSize(size) + 3) & ~3UL;
        _chains = new List<ushort>[size];
        for (var i = size - 1; i >= 0; i--)
        {
            _free.Push((ushort)i);
            _chains[i] = [];
        }

        memory.Write(offset, new byte[BytesFor(size)]);
        Layout = new RingLayout(
            size,
            new Iova(start.Value + _descriptors),
            new Iova(start.Value + _available),
            new Iova(start.Value + _used),
            eventIndex,
            indirect);
    }

    /// <summary>Where the ring is, for the device.</summary>
    public RingLayout Layout { get; }

    /// <summary>How many descriptors are free.</summary>
    public int FreeDescriptors => _free.Count;

    /// <summary>The device's used index as it stands in the ring.</summary>
    public ushort UsedIndex => ReadWord(_used + 2);

    /// <summary>The used ring's flags as the device wrote them.</summary>
    public ushort UsedFlags => ReadWord(_used);

    /// <summary>The avail_event field as the device wrote it.</summary>
    public ushort AvailableEvent => ReadWord(_used + 4 + (8 * (ulong)_size));

    /// <summary>Bytes that a ring takes.</summary>
    /// <param name="size">Queue size.</param>
    /// <returns>Bytes.</returns>
    public static ulong BytesFor(int size) =>
        SplitRing.DescriptorAreaSize(size) + ((SplitRing.DriverAreaSize(size) + 3) & ~3UL) + SplitRing.DeviceAreaSize(size);

    /// <summary>Puts a chain into the available ring; the device sees it after <see cref="Publish"/>.</summary>
    /// <param name="buffers">Its buffers, readable ones first.</param>
    /// <returns>The chain's head, or -1 when too few descriptors are free.</returns>
    public int Add(ReadOnlySpan<DriverBuffer> buffers)
    {
        if (buffers.IsEmpty || buffers.Length > _free.Count)
            return -1;
        var head = _free.Peek();
        var chain = _chains[head];
        for (var i = 0; i < buffers.Length; i++)
        {
            var at = _free.Pop();
            chain.Add(at);
            var last = i == buffers.Length - 1;
            var flags = (buffers[i].DeviceWrites ? SplitRing.VIRTQ_DESC_F_WRITE : 0) | (last ? 0 : SplitRing.VIRTQ_DESC_F_NEXT);
            WriteDescriptor(at, buffers[i].Address, buffers[i].Length, (ushort)flags, last ? (ushort)0 : _free.Peek());
        }

        AddHead(head);
        return head;
    }

    /// <summary>Puts one descriptor, of an indirect table, into the available ring.</summary>
    /// <param name="table">Address of the table.</param>
    /// <param name="length">Its length in bytes.</param>
    /// <returns>The chain's head, or -1 when no descriptor is free.</returns>
    public int AddIndirect(Iova table, uint length)
    {
        if (!_free.TryPop(out var head))
            return -1;
        _chains[head].Add(head);
        WriteDescriptor(head, table, length, SplitRing.VIRTQ_DESC_F_INDIRECT, 0);
        AddHead(head);
        return head;
    }

    /// <summary>Puts a head into the available ring, whatever its descriptors say.</summary>
    /// <param name="head">The head; also one that the ring does not have.</param>
    public void AddHead(ushort head)
    {
        WriteWord(_available + 4 + (2 * (ulong)(_nextAvailable & (_size - 1))), head);
        _nextAvailable++;
    }

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
        Span<byte> bytes = stackalloc byte[SplitRing.DescriptorSize];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, address.Value);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[8..], length);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[12..], flags);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[14..], next);
        memory.Write(offset, bytes);
    }

    /// <summary>Lets the device see what was added.</summary>
    /// <returns>Whether the device wants a kick.</returns>
    public bool Publish() => PublishIndex(_nextAvailable);

    /// <summary>Sets the available index, also to a value that makes no sense.</summary>
    /// <param name="index">The index.</param>
    /// <returns>Whether the device wants a kick.</returns>
    public bool PublishIndex(ushort index)
    {
        var old = _announced;
        // Release before, full fence after: the entries are out before the index, the index before the device's wish is read (2.7.13.3).
        Interlocked.MemoryBarrier();
        WriteWord(_available + 2, index);
        Interlocked.MemoryBarrier();
        _announced = index;
        return _eventIndex
            ? SplitRing.NeedEvent(AvailableEvent, index, old)
            : (UsedFlags & SplitRing.VIRTQ_USED_F_NO_NOTIFY) == 0;
    }

    /// <summary>Says from which used buffer on the driver wants to be told (used_event), or with flags, that it wants to at all.</summary>
    /// <param name="wanted">Whether; without it a driver polls.</param>
    public void RequestCalls(bool wanted)
    {
        if (_eventIndex)
            WriteWord(_available + 4 + (2 * (ulong)_size), (ushort)(wanted ? _nextUsed : _nextUsed - 1));
        else
            WriteWord(_available, wanted ? (ushort)0 : SplitRing.VIRTQ_AVAIL_F_NO_INTERRUPT);
        Interlocked.MemoryBarrier();
    }

    /// <summary>Takes the next used buffer and frees its descriptors.</summary>
    /// <param name="head">The chain's head.</param>
    /// <param name="written">Bytes that the device says it wrote.</param>
    /// <returns>Whether there was one.</returns>
    public bool TryTakeUsed(out ushort head, out uint written)
    {
        head = 0;
        written = 0;
        var index = UsedIndex;
        Interlocked.MemoryBarrier();
        if (index == _nextUsed)
            return false;
        Span<byte> element = stackalloc byte[8];
        _memory.Read(_used + 4 + (8 * (ulong)(_nextUsed & (_size - 1))), element);
        head = (ushort)BinaryPrimitives.ReadUInt32LittleEndian(element);
        written = BinaryPrimitives.ReadUInt32LittleEndian(element[4..]);
        _nextUsed++;
        var chain = _chains[head];
        for (var i = chain.Count - 1; i >= 0; i--)
            _free.Push(chain[i]);
        chain.Clear();
        return true;
    }

    private ushort ReadWord(ulong offset)
    {
        Span<byte> word = stackalloc byte[2];
        _memory.Read(offset, word);
        return BinaryPrimitives.ReadUInt16LittleEndian(word);
    }

    private void WriteWord(ulong offset, ushort value)
    {
        Span<byte> word = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(word, value);
        _memory.Write(offset, word);
    }
}
