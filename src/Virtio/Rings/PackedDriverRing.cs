using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Virtio.Rings;

/// <summary>
/// The driver side of a packed virtqueue (VIRTIO 1.2, 2.8), as a guest has it: for drivers of the fabric and for tests of a device. What the
/// ring is made of is written through <see cref="Writer"/>, by which a test writes wrong rings too.
/// </summary>
public sealed class PackedDriverRing : DriverRing
{
    private readonly PackedRingWriter _writer;
    private readonly int _size;
    private readonly bool _eventIndex;
    // Free ids, a stack; an id is a buffer's name.
    private readonly ushort[] _free;
    // Of a buffer that is out, by its id; no slots says that there is none.
    private readonly ushort[] _slots;
    private readonly uint[] _writable;
    // Ids in the order in which they were made available; kept when the device uses them in that order.
    private readonly ushort[] _order;
    private int _freeIds;
    private int _freeSlots;
    private int _nextAvailable;
    private bool _availableWrap = true;
    private int _nextUsed;
    private bool _usedWrap = true;
    // The head of what was added first is written last: the device sees all of it at once.
    private int _head;
    private ulong _headRest;
    private int _added;
    // Of those that the device can see, how many it was not asked about.
    private int _shown;
    private int _firstOrder;
    private int _nextOrder;
    private int _batch;
    private uint _batchWritten;

    /// <summary>Lays a ring out in memory and clears it.</summary>
    /// <param name="memory">Where the ring lies; the driver uses it as long as its owner keeps it.</param>
    /// <param name="start">The device's address of the memory's first byte.</param>
    /// <param name="offset">Byte offset of the ring, a multiple of 16; it takes <see cref="BytesFor"/> bytes.</param>
    /// <param name="size">Queue size, 1 to 32768.</param>
    /// <param name="eventIndex">Whether VIRTIO_F_EVENT_IDX is in use.</param>
    /// <param name="indirect">Whether VIRTIO_F_INDIRECT_DESC is in use.</param>
    /// <param name="inOrder">Whether VIRTIO_F_IN_ORDER is in use.</param>
    public PackedDriverRing(HostMemory memory, Iova start, ulong offset, int size, bool eventIndex, bool indirect, bool inOrder = false)
    {
        ArgumentNullException.ThrowIfNull(memory);
        ArgumentOutOfRangeException.ThrowIfLessThan(size, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(size, PackedRing.MaxSize);
        if ((offset & 15) != 0)
            throw new ArgumentOutOfRangeException(nameof(offset), offset, "A packed ring begins at a multiple of 16.");
        _size = size;
        _eventIndex = eventIndex;
        _writer = new PackedRingWriter(memory, start, offset, size, eventIndex, indirect, inOrder);
        _slots = new ushort[size];
        _writable = new uint[size];
        _order = inOrder ? new ushort[size] : [];
        _free = new ushort[size];
        for (var i = 0; i < size; i++)
            _free[i] = (ushort)(size - 1 - i);
        _freeIds = size;
        _freeSlots = size;
    }

    /// <inheritdoc/>
    public override RingLayout Layout => _writer.Layout;

    /// <inheritdoc/>
    public override int FreeDescriptors => _freeSlots;

    /// <inheritdoc/>
    public override ushort NotificationPlace => PackedRing.Place(_nextAvailable, _availableWrap);

    /// <summary>The words of the ring, without rules. A buffer that is put in by it is not the driver's, and its use is a fault of the device.</summary>
    public PackedRingWriter Writer => _writer;

    /// <summary>Bytes that a ring takes.</summary>
    /// <param name="size">Queue size.</param>
    /// <returns>Bytes.</returns>
    public static ulong BytesFor(int size) => PackedRing.DescriptorAreaSize(size) + (2 * PackedRing.EventSize);

    /// <inheritdoc/>
    public override int Add(ReadOnlySpan<DriverBuffer> buffers)
    {
        if (buffers.IsEmpty || buffers.Length > _freeSlots)
            return -1;
        var id = _free[--_freeIds];
        var writable = 0UL;
        for (var i = 0; i < buffers.Length; i++)
        {
            ref readonly var buffer = ref buffers[i];
            var flags = (buffer.DeviceWrites ? PackedRing.VIRTQ_DESC_F_WRITE : 0) | (i == buffers.Length - 1 ? 0 : PackedRing.VIRTQ_DESC_F_NEXT);
            Put(buffer.Address, buffer.Length, id, flags);
            if (buffer.DeviceWrites)
                writable += buffer.Length;
        }

        Take(id, buffers.Length, (uint)Math.Min(writable, uint.MaxValue));
        return id;
    }

    /// <inheritdoc/>
    public override int AddIndirect(Iova table, uint length, uint writable = uint.MaxValue)
    {
        if (_freeSlots == 0)
            return -1;
        var id = _free[--_freeIds];
        Put(table, length, id, PackedRing.VIRTQ_DESC_F_INDIRECT);
        Take(id, 1, writable);
        return id;
    }

    /// <inheritdoc/>
    public override void Show()
    {
        if (_added == 0)
            return;
        _writer.WriteRest(_head, _headRest);
        // A lap is as much as the device can wait for.
        _shown = Math.Min(_shown + _added, _size);
        _added = 0;
    }

    /// <inheritdoc/>
    public override bool Publish()
    {
        Show();
        var added = _shown;
        _shown = 0;
        // Full fence: the descriptors are out before the device's wish is read, or both sides may sleep (2.8.21.3).
        Interlocked.MemoryBarrier();
        return PackedRing.NeedEvent(_writer.DeviceEvent, _eventIndex, _size, _nextAvailable, _availableWrap, added);
    }

    /// <inheritdoc/>
    public override bool RequestCalls(bool wanted)
    {
        if (!wanted)
            _writer.WriteDriverEvent(0, PackedRing.RING_EVENT_FLAGS_DISABLE);
        else if (_eventIndex)
            _writer.WriteDriverEvent(PackedRing.Place(_nextUsed, _usedWrap), PackedRing.RING_EVENT_FLAGS_DESC);
        else
            _writer.WriteDriverEvent(0, PackedRing.RING_EVENT_FLAGS_ENABLE);
        // Full fence: the wish is out before the ring is read again, or both sides may sleep (2.8.21.3).
        Interlocked.MemoryBarrier();
        return _batch > 0 || IsUsed(_writer.ReadRest(_nextUsed));
    }

    /// <inheritdoc/>
    public override bool TryTakeUsed(out ushort head, out uint written, out Fault fault)
    {
        head = 0;
        written = 0;
        fault = Fault;
        if (fault != Fault.None)
            return false;
        if (_batch > 0)
        {
            TakeFromBatch(out head, out written);
            return true;
        }

        var rest = _writer.ReadRest(_nextUsed);
        if (!IsUsed(rest))
            return false;
        head = (ushort)(rest >> 32);
        written = (uint)rest;
        if (head >= _size || _slots[head] == 0)
            return Break("the device used a buffer that is not out", out fault);
        if (written > _writable[head])
        {
            if ((rest >> 48 & PackedRing.VIRTQ_DESC_F_WRITE) != 0)
                return Break("the device says that it wrote more than a buffer can hold", out fault);
            // Without the flag the length is reserved (2.8.8), so it may be any. QEMU's devices never set the flag, and the length is what they wrote.
            written = 0;
        }

        if (_order.Length == 0)
        {
            Free(head);
            return true;
        }

        // One descriptor may stand for a batch, whose last buffer it names (2.8.9). The id is out, so it is among those that were added.
        _batch = 1;
        for (var at = _firstOrder; _order[at] != head; at = at == _size - 1 ? 0 : at + 1)
            _batch++;
        _batchWritten = written;
        TakeFromBatch(out head, out written);
        return true;
    }

    private bool IsUsed(ulong rest) => PackedRing.IsUsed((ushort)(rest >> 48), _usedWrap);

    private void Put(Iova address, uint length, ushort id, int flags)
    {
        var rest = PackedDescriptor.Rest(length, id, (ushort)(flags | PackedRing.Available(_availableWrap)));
        _writer.WriteAddress(_nextAvailable, address);
        if (_added++ == 0)
            (_head, _headRest) = (_nextAvailable, rest);
        else
            _writer.WriteRest(_nextAvailable, rest);
        if (++_nextAvailable < _size)
            return;
        _nextAvailable = 0;
        _availableWrap = !_availableWrap;
    }

    private void Take(ushort id, int slots, uint writable)
    {
        _freeSlots -= slots;
        _slots[id] = (ushort)slots;
        _writable[id] = writable;
        if (_order.Length == 0)
            return;
        _order[_nextOrder] = id;
        _nextOrder = _nextOrder == _size - 1 ? 0 : _nextOrder + 1;
    }

    private void TakeFromBatch(out ushort head, out uint written)
    {
        head = _order[_firstOrder];
        _firstOrder = _firstOrder == _size - 1 ? 0 : _firstOrder + 1;
        // Those that have no descriptor of their own were used whole (2.8.9).
        written = --_batch == 0 ? _batchWritten : _writable[head];
        Free(head);
    }

    private void Free(ushort id)
    {
        _nextUsed += _slots[id];
        if (_nextUsed >= _size)
        {
            _nextUsed -= _size;
            _usedWrap = !_usedWrap;
        }

        _freeSlots += _slots[id];
        _slots[id] = 0;
        _free[_freeIds++] = id;
    }

    private bool Break(string message, out Fault fault)
    {
        fault = Fault = new Fault(Errno.EPROTO, message);
        return false;
    }
}
