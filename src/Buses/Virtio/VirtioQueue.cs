using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;
using Virtbus.Virtio;
using Virtbus.Virtio.Rings;

namespace Virtbus.Buses.Virtio;

/// <summary>
/// A virtqueue as its driver has it: the ring in memory that the device reaches, and the way to notify. What the device does wrong breaks the queue: from
/// then on nothing goes in and nothing comes out, until the driver resets the device. One thread uses it at a time; no call allocates or throws. One that
/// was freed is as one that is broken: who uses it at that moment is waited for.
/// </summary>
public sealed class VirtioQueue : IDisposable
{
    private readonly DmaBuffer _memory;
    private readonly DriverRing _ring;
    private readonly Action<VirtioQueue> _notify;
    private readonly Action<VirtioQueue, Fault> _broken;
    private readonly Action<VirtioQueue>? _used;
    // Who is in the callback of a break, which comes on any thread: none runs when the queue is freed.
    private readonly UseGate _breaks = new();
    private int _breaker;
    private int _isBroken;
    private bool _isInside;

    private VirtioQueue(int index, in VirtioQueueSpec spec, DmaBuffer memory, DriverRing ring, Action<VirtioQueue> notify, Action<VirtioQueue, Fault> broken)
    {
        Index = index;
        Name = spec.Name;
        _used = spec.Used;
        _memory = memory;
        _ring = ring;
        _notify = notify;
        _broken = broken;
    }

    /// <summary>Its number on the device.</summary>
    public int Index { get; }

    /// <summary>What it is called in logs.</summary>
    public string Name { get; }

    /// <summary>How many descriptors it has.</summary>
    public int Size => _ring.Layout.Size;

    /// <summary>How many of them are free.</summary>
    public int FreeDescriptors => _ring.FreeDescriptors;

    /// <summary>Where the ring is, for the transport.</summary>
    public RingLayout Layout => _ring.Layout;

    /// <summary>What a notification with data carries, for the transport, see <see cref="DriverRing.NotificationPlace"/>.</summary>
    public ushort NotificationPlace => _ring.NotificationPlace;

    /// <summary>Whether a buffer may have a table of its own, see <see cref="AddTable"/>.</summary>
    public bool HasTables => _ring.Layout.Indirect;

    /// <summary>Whether the device broke it, or is gone.</summary>
    public bool IsBroken => Volatile.Read(ref _isBroken) != 0;

    /// <summary>Makes a queue with memory of its own, for a transport.</summary>
    /// <param name="group">Whose memory the device reaches.</param>
    /// <param name="index">Its number on the device.</param>
    /// <param name="spec">What the driver asks for.</param>
    /// <param name="size">How many descriptors; a power of two, unless rings are packed.</param>
    /// <param name="features">What was settled.</param>
    /// <param name="usedAlignment">Where the used ring of a split queue begins, see <see cref="SplitDriverRing"/>.</param>
    /// <param name="notify">Notifies the device; it must not block.</param>
    /// <param name="broken">Told once when the device broke it.</param>
    /// <exception cref="VirtbusException">ENOMEM, EPERM: no memory that the device reaches.</exception>
    public static VirtioQueue Create(
        IommuGroup group, int index, in VirtioQueueSpec spec, int size, VirtioFeatures features, uint usedAlignment, Action<VirtioQueue> notify, Action<VirtioQueue, Fault> broken)
    {
        ArgumentNullException.ThrowIfNull(group);
        var isPacked = features.Has(VirtioFeatures.VIRTIO_F_RING_PACKED);
        var bytes = isPacked ? PackedDriverRing.BytesFor(size) : SplitDriverRing.BytesFor(size, usedAlignment);
        if (!group.TryAllocate(bytes, out var memory, out var fault))
            throw new VirtbusException(fault.Errno, $"No memory for virtio queue {index} ({spec.Name}) of {size} descriptors: {fault.Message}. Ask for a shorter one.");
        try
        {
            var (eventIndex, indirect, inOrder) =
                (features.Has(VirtioFeatures.VIRTIO_F_EVENT_IDX), features.Has(VirtioFeatures.VIRTIO_F_INDIRECT_DESC), features.Has(VirtioFeatures.VIRTIO_F_IN_ORDER));
            DriverRing ring = isPacked
                ? new PackedDriverRing(memory!.Memory, memory.Address, 0, size, eventIndex, indirect, inOrder)
                : new SplitDriverRing(memory!.Memory, memory.Address, 0, size, eventIndex, indirect, inOrder, usedAlignment);
            return new VirtioQueue(index, spec, memory, ring, notify, broken);
        }
        catch
        {
            memory!.Dispose();
            throw;
        }
    }

    /// <summary>Puts a buffer in; the device sees it after <see cref="Kick"/>.</summary>
    /// <param name="parts">Its parts, those that the device reads first.</param>
    /// <returns>Its name until it is used, below <see cref="Size"/>; -1 when too few descriptors are free, or the queue is broken.</returns>
    public int Add(params ReadOnlySpan<DriverBuffer> parts)
    {
        if (!TryEnter())
            return -1;
        try
        {
            return _ring.Add(parts);
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>Puts a buffer in whose parts stand in a table of its own, so that it takes one descriptor; where <see cref="HasTables"/> says that they may.</summary>
    /// <param name="parts">Its parts, those that the device reads first; not more than <see cref="Size"/>.</param>
    /// <param name="memory">Where the table is written to. It stays as it is until the buffer is used.</param>
    /// <param name="offset">Its first byte there, a multiple of 16; it takes 16 bytes for each part.</param>
    /// <returns>As <see cref="Add"/>.</returns>
    public int AddTable(ReadOnlySpan<DriverBuffer> parts, DmaBuffer memory, ulong offset)
    {
        ArgumentNullException.ThrowIfNull(memory);
        if (!HasTables || parts.IsEmpty || parts.Length > Size || !TryEnter())
            return -1;
        try
        {
            return _ring.FreeDescriptors == 0 ? -1 : WriteTable(parts, memory, offset);
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>Lets the device see what was put in, for who has more to put in and then calls <see cref="Kick"/>.</summary>
    public void Show()
    {
        if (!TryEnter())
            return;
        try
        {
            _ring.Show();
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>Lets the device see what was put in, and notifies it where it wants that.</summary>
    public void Kick()
    {
        if (!TryEnter())
            return;
        bool isWanted;
        try
        {
            isWanted = _ring.Publish();
        }
        finally
        {
            Leave();
        }

        if (isWanted)
            _notify(this);
    }

    /// <summary>Takes the next used buffer.</summary>
    /// <param name="name">Its name from <see cref="Add"/>, which is free again.</param>
    /// <param name="written">Bytes that the device says it wrote, not more than the buffer has for it.</param>
    /// <returns>False when there is none, or the queue is broken.</returns>
    public bool TryTake(out int name, out uint written)
    {
        name = -1;
        written = 0;
        if (!TryEnter())
            return false;
        Fault fault;
        try
        {
            if (_ring.TryTakeUsed(out var head, out written, out fault))
            {
                name = head;
                return true;
            }
        }
        finally
        {
            Leave();
        }

        if (fault != Fault.None)
            Break(fault);
        return false;
    }

    /// <summary>Says whether the driver wants to be told of used buffers.</summary>
    /// <param name="wanted">Whether it wants to.</param>
    /// <returns>True when some wait already: take them, nobody may tell of them.</returns>
    public bool RequestCalls(bool wanted)
    {
        if (!TryEnter())
            return false;
        try
        {
            return _ring.RequestCalls(wanted);
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>Breaks it, for a driver that found an answer of the device that makes no sense, or a device that is gone. Its callback is called once more.</summary>
    /// <param name="fault">What is wrong.</param>
    public void Break(Fault fault)
    {
        if (Interlocked.Exchange(ref _isBroken, 1) != 0 || !_breaks.TryEnter())
            return;
        _breaker = Environment.CurrentManagedThreadId;
        try
        {
            _broken(this, fault);
            _used?.Invoke(this);
        }
        finally
        {
            _breaker = 0;
            _breaks.Leave();
        }
    }

    /// <summary>The device interrupted for it; for the transport.</summary>
    public void Interrupt()
    {
        if (!IsBroken)
            _used?.Invoke(this);
    }

    /// <summary>
    /// Frees the ring, for the transport: the device is reset or gone, and no handler of an interrupt runs. Nobody is inside when it returns, and no callback of
    /// it runs, but for one that it is called from.
    /// </summary>
    public void Dispose()
    {
        Volatile.Write(ref _isBroken, 1);
        _breaks.Close(own: _breaker == Environment.CurrentManagedThreadId ? 1 : 0);
        // The fence of those who go in, too: each of them has shown itself, or sees that the queue is broken.
        Interlocked.MemoryBarrierProcessWide();
        var spinner = default(SpinWait);
        while (Volatile.Read(ref _isInside))
            spinner.SpinOnce();
        _memory.Dispose();
    }

    // No fence and no locked instruction, which a data path would feel: who frees it makes the fence for both.
    private bool TryEnter()
    {
        Volatile.Write(ref _isInside, true);
        if (!IsBroken)
            return true;
        Leave();
        return false;
    }

    private void Leave() => Volatile.Write(ref _isInside, false);

    private int WriteTable(ReadOnlySpan<DriverBuffer> parts, DmaBuffer memory, ulong offset)
    {
        var writable = 0UL;
        for (var i = 0; i < parts.Length; i++)
        {
            ref readonly var part = ref parts[i];
            var at = offset + ((ulong)i * SplitRing.DescriptorSize);
            // The write flag has one value in both forms; of a table of a packed ring that is all there is (VIRTIO 1.3, 2.8.7).
            var flags = part.DeviceWrites ? SplitRing.VIRTQ_DESC_F_WRITE : 0;
            if (_ring.Layout.Packed)
                PackedRingWriter.EncodeDescriptor(memory.Memory, at, part.Address, part.Length, (ushort)flags);
            else if (i == parts.Length - 1)
                SplitRingWriter.EncodeDescriptor(memory.Memory, at, part.Address, part.Length, (ushort)flags, 0);
            else
                SplitRingWriter.EncodeDescriptor(memory.Memory, at, part.Address, part.Length, (ushort)(flags | SplitRing.VIRTQ_DESC_F_NEXT), (ushort)(i + 1));
            if (part.DeviceWrites)
                writable += part.Length;
        }

        return _ring.AddIndirect(new Iova(memory.Address.Value + offset), (uint)(parts.Length * SplitRing.DescriptorSize), (uint)Math.Min(writable, uint.MaxValue));
    }
}
