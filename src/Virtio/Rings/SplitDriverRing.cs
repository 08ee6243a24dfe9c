using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Virtio.Rings;

/// <summary>
/// The driver side of a split virtqueue (VIRTIO 1.2, 2.7), as a guest has it: for drivers of the fabric and for tests of a device. What the
/// ring is made of is written through <see cref="Writer"/>, by which a test writes wrong rings too.
/// </summary>
public sealed class SplitDriverRing : DriverRing
{
    private const ushort None = ushort.MaxValue;
    private const uint UsedAlignment = 4;

    private readonly SplitRingWriter _writer;
    private readonly int _size;
    private readonly bool _inOrder;
    // The free descriptors and those of each chain that is out, linked. The table in the ring is never read: the device could write to it.
    private readonly ushort[] _next;
    // Of a chain that is out, at its head; a length of 0 says that no chain begins there.
    private readonly ushort[] _lengths;
    private readonly uint[] _writable;
    // Heads in the order in which they were made available; kept when the device uses them in that order.
    private readonly ushort[] _order;
    // Taken at the head and given back at the end, so that neighbours go out together and share their cache lines on the way to the device.
    private ushort _free;
    private ushort _lastFree;
    private int _freeCount;
    private int _outstanding;
    private ushort _nextOrder;
    private ushort _nextUsed;
    private ushort _usedIndex;
    private ushort _batchEnd;
    private uint _batchWritten;

    /// <summary>Lays a ring out in memory and clears it.</summary>
    /// <param name="memory">Where the ring lies; the driver uses it as long as its owner keeps it.</param>
    /// <param name="start">The device's address of the memory's first byte.</param>
    /// <param name="offset">Byte offset of the ring, a multiple of 16; it takes <see cref="BytesFor"/> bytes.</param>
    /// <param name="size">Queue size, a power of two up to 32768.</param>
    /// <param name="eventIndex">Whether VIRTIO_F_EVENT_IDX is in use.</param>
    /// <param name="indirect">Whether VIRTIO_F_INDIRECT_DESC is in use.</param>
    /// <param name="inOrder">Whether VIRTIO_F_IN_ORDER is in use.</param>
    /// <param name="usedAlignment">The used ring begins at a multiple of this, from the ring's first byte: a power of two, 4096 for devices from before version 1.0.</param>
    public SplitDriverRing(
        HostMemory memory, Iova start, ulong offset, int size, bool eventIndex, bool indirect, bool inOrder = false, uint usedAlignment = UsedAlignment)
    {
        ArgumentNullException.ThrowIfNull(memory);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(size, SplitRing.MaxSize);
        if (!int.IsPow2(size))
            throw new ArgumentOutOfRangeException(nameof(size), size, "A split ring's size is a power of two.");
        if ((offset & 15) != 0)
            throw new ArgumentOutOfRangeException(nameof(offset), offset, "A split ring begins at a multiple of 16.");
        _size = size;
        _inOrder = inOrder;
        _writer = new SplitRingWriter(memory, start, offset, size, eventIndex, indirect, inOrder, usedAlignment);
        _next = new ushort[size];
        _lengths = new ushort[size];
        _writable = new uint[size];
        _order = inOrder ? new ushort[size] : [];
        for (var i = 0; i < size; i++)
            _next[i] = i == size - 1 ? None : (ushort)(i + 1);
        _lastFree = (ushort)(size - 1);
        _freeCount = size;
    }

    /// <inheritdoc/>
    public override RingLayout Layout => _writer.Layout;

    /// <inheritdoc/>
    public override int FreeDescriptors => _freeCount;

    /// <inheritdoc/>
    public override ushort NotificationPlace => _writer.NextAvailable;

    /// <summary>The words of the ring, without rules. A chain that is put in by it is not the driver's, and its use is a fault of the device.</summary>
    public SplitRingWriter Writer => _writer;

    /// <summary>Bytes that a ring takes.</summary>
    /// <param name="size">Queue size.</param>
    /// <param name="usedAlignment">As for the constructor.</param>
    /// <returns>Bytes.</returns>
    public static ulong BytesFor(int size, uint usedAlignment = UsedAlignment) => UsedOffset(size, usedAlignment) + SplitRing.DeviceAreaSize(size);

    internal static ulong UsedOffset(int size, uint usedAlignment) =>
        (SplitRing.DescriptorAreaSize(size) + (ulong)SplitRing.DriverAreaSize(size) + usedAlignment - 1) & ~(usedAlignment - 1UL);

    /// <inheritdoc/>
    public override int Add(ReadOnlySpan<DriverBuffer> buffers)
    {
        if (buffers.IsEmpty || buffers.Length > _freeCount)
            return -1;
        var head = _free;
        var at = head;
        var writable = 0UL;
        for (var i = 0; i < buffers.Length; i++)
        {
            ref readonly var buffer = ref buffers[i];
            var last = i == buffers.Length - 1;
            var flags = (buffer.DeviceWrites ? SplitRing.VIRTQ_DESC_F_WRITE : 0) | (last ? 0 : SplitRing.VIRTQ_DESC_F_NEXT);
            _writer.WriteDescriptor(at, buffer.Address, buffer.Length, (ushort)flags, last ? (ushort)0 : _next[at]);
            if (buffer.DeviceWrites)
                writable += buffer.Length;
            if (!last)
                at = _next[at];
        }

        Take(head, at, buffers.Length, (uint)Math.Min(writable, uint.MaxValue));
        return head;
    }

    /// <inheritdoc/>
    public override int AddIndirect(Iova table, uint length, uint writable = uint.MaxValue)
    {
        if (_freeCount == 0)
            return -1;
        var head = _free;
        _writer.WriteDescriptor(head, table, length, SplitRing.VIRTQ_DESC_F_INDIRECT, 0);
        Take(head, head, 1, writable);
        return head;
    }

    /// <inheritdoc/>
    public override void Show() => _writer.ShowIndex(_writer.NextAvailable);

    /// <inheritdoc/>
    public override bool Publish() => _writer.PublishIndex(_writer.NextAvailable);

    /// <inheritdoc/>
    public override bool RequestCalls(bool wanted)
    {
        _writer.RequestCalls(wanted, _nextUsed);
        return _writer.UsedIndex != _nextUsed;
    }

    /// <inheritdoc/>
    public override bool TryTakeUsed(out ushort head, out uint written, out Fault fault)
    {
        head = 0;
        written = 0;
        fault = Fault;
        if (fault != Fault.None)
            return false;
        if (_inOrder && _nextUsed != _batchEnd)
        {
            TakeFromBatch(out head, out written);
            return true;
        }

        // Acquire: the element is read after the index that announces it (2.7.8.2).
        // It is in a line that the device writes to all the time, so it is read again only when all that it announced was taken.
        if (_usedIndex == _nextUsed)
            _usedIndex = _writer.UsedIndex;
        var ready = (ushort)(_usedIndex - _nextUsed);
        if (ready == 0)
            return false;
        if (ready > _outstanding)
            return Break("the used index moved by more buffers than are out", out fault);
        var element = _writer.UsedElement(_nextUsed);
        written = (uint)(element >> 32);
        // The id has 32 bits, of which a head has 16.
        var id = (uint)element;
        if (id >= (uint)_size || _lengths[id] == 0)
            return Break("the device used a buffer that is not out", out fault);
        head = (ushort)id;
        if (written > _writable[head])
            return Break("the device says that it wrote more than a buffer can hold", out fault);
        if (!_inOrder)
        {
            _nextUsed++;
            Free(head);
            return true;
        }

        // One element may stand for a batch, whose last buffer it names (2.7.9).
        var end = _nextUsed;
        while (end != _nextOrder && _order[end & (_size - 1)] != head)
            end++;
        if ((ushort)(end - _nextUsed) >= ready)
            return Break("the device used a buffer out of order, or announced more than it named", out fault);
        _batchEnd = (ushort)(end + 1);
        _batchWritten = written;
        TakeFromBatch(out head, out written);
        return true;
    }

    private void TakeFromBatch(out ushort head, out uint written)
    {
        head = _order[_nextUsed & (_size - 1)];
        _nextUsed++;
        // Those that have no element of their own were used whole (2.7.9).
        written = _nextUsed == _batchEnd ? _batchWritten : _writable[head];
        Free(head);
    }

    private void Take(ushort head, ushort last, int count, uint writable)
    {
        _free = _next[last];
        _next[last] = None;
        _freeCount -= count;
        _lengths[head] = (ushort)count;
        _writable[head] = writable;
        _outstanding++;
        if (_inOrder)
            _order[_nextOrder++ & (_size - 1)] = head;
        _writer.AddHead(head);
    }

    private void Free(ushort head)
    {
        var last = head;
        while (_next[last] != None)
            last = _next[last];
        if (_free == None)
            _free = head;
        else
            _next[_lastFree] = head;
        _lastFree = last;
        _freeCount += _lengths[head];
        _lengths[head] = 0;
        _outstanding--;
    }

    private bool Break(string message, out Fault fault)
    {
        fault = Fault = new Fault(Errno.EPROTO, message);
        return false;
    }
}
