using System.Runtime.CompilerServices;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Virtio.Rings;

/// <summary>The device side of a split virtqueue (VIRTIO 1.2, 2.7).</summary>
public sealed unsafe class SplitDeviceRing : DeviceRing
{
    private SplitRingCopy? _copy;
    private Iova _usedAddress;
    private SplitDescriptor* _descriptors;
    private byte* _available;
    private byte* _used;
    private ushort _mask;
    private ushort _nextAvailable;
    private ushort _seenAvailable;
    private ushort _nextUsed;
    private ushort _publishedUsed;
    // Up to where the driver was told, or did not want to be.
    private ushort _toldUsed;
    // Descriptors of what is used: not announced yet, and since the driver was told.
    private int _unpublishedSlots;
    private int _untoldSlots;
    // By how many the index of what is taken was before that of what is used at the start.
    private ushort _ahead;
    private bool _kicksEnabled;
    // From where on a kick is asked for, where that is not what comes next.
    private ushort? _kicksFrom;
    // The element that stands for a batch of buffers that are used in order: where it is, and whether it may stand for one more.
    private ushort _batch;
    private bool _isBatchOpen;

    /// <inheritdoc/>
    public override bool IsFar => _copy is not null;

    /// <inheritdoc/>
    public override QueueState State => QueueState.Split(_nextAvailable);

    /// <summary>Free-running index of the next buffer to take from the available ring.</summary>
    public ushort NextAvailable => _nextAvailable;

    /// <summary>Free-running index of the next place in the used ring.</summary>
    public ushort NextUsed => _nextUsed;

    /// <inheritdoc/>
    /// <remarks>The used index is taken from the ring itself, so a queue that another back end served before goes on where it was.</remarks>
    public override bool TryStart(in RingLayout layout, DmaPort dma, QueueState state, out Fault fault)
    {
        if (IsStarted)
            throw new InvalidOperationException("The queue is started already.");
        if (state.IsPacked)
        {
            fault = new Fault(Errno.EINVAL, "the queue's state is that of a packed ring");
            return false;
        }

        if (layout.Size is < 1 or > SplitRing.MaxSize || !int.IsPow2(layout.Size))
        {
            fault = new Fault(Errno.EINVAL, "the queue size is no power of two from 1 to 32768");
            return false;
        }

        if ((layout.DescriptorArea.Value & 15) != 0 || (layout.DriverArea.Value & 1) != 0 || (layout.DeviceArea.Value & 3) != 0)
        {
            fault = new Fault(Errno.EINVAL, "a ring address is not aligned (descriptors to 16, available to 2, used to 4 bytes)");
            return false;
        }

        if (!TryFindAreas(layout, dma, out fault))
            return false;
        _usedAddress = layout.DeviceArea;
        _mask = (ushort)(layout.Size - 1);
        _nextAvailable = state.NextAvailable;
        _seenAvailable = _nextAvailable;
        _isBatchOpen = false;
        _kicksEnabled = false;
        _kicksFrom = null;
        BeginAtUsed();
        return TryBegin(out fault);
    }

    /// <inheritdoc/>
    public override void Stop()
    {
        End();
        _copy = null;
        _descriptors = null;
        _available = null;
        _used = null;
    }

    /// <inheritdoc/>
    public override int Take(ReadOnlySpan<DescriptorChain> chains, out Fault fault)
    {
        _isHeldUp = false;
        _kicksFrom = null;
        chains = chains[..Math.Min(chains.Length, Waiting(out fault))];
        foreach (var chain in chains)
            Enlist(chain);
        // One stay for all, which ends and begins anew where something is waited for.
        if (chains.IsEmpty || !TryEnter(out var section, out fault))
            return 0;
        _taken = 0;
        foreach (var chain in chains)
        {
            // Of a driver that asks for much, some has to be back first.
            if (IsLaden || !TryTake(chain, ref section, out fault))
                break;
            _taken++;
        }

        section.Leave();
        return _taken;
    }

    /// <inheritdoc/>
    public override void PutBack(ReadOnlySpan<DescriptorChain> chains)
    {
        foreach (var chain in chains)
        {
            Forget(chain);
            _nextAvailable--;
        }
    }

    /// <inheritdoc/>
    public override void CompleteRun(in RingRun run, uint written)
    {
        if (_order is not null)
        {
            Use(UsedOrder.Held.Of(run, written));
            return;
        }

        Use(_nextUsed, run.Head, written);
        _nextUsed++;
        _unpublishedSlots++;
    }

    /// <inheritdoc/>
    public override void PutBackRuns(int count) => _nextAvailable -= (ushort)count;

    private protected override int FindRuns(Span<RingRun> runs, DmaAccess access, in DmaSection section)
    {
        _kicksFrom = null;
        var writable = access == DmaAccess.Write ? SplitRing.VIRTQ_DESC_F_WRITE : 0;
        var most = Math.Min(runs.Length, Waiting(out _));
        var taken = 0;
        for (; taken < most; taken++)
        {
            var head = Volatile.Read(ref *(ushort*)(_available + 4 + (2 * (_nextAvailable & _mask))));
            // One that the queue does not have is for Take to find fault with.
            if (head >= Size)
                break;
            // SAFETY: the head is below the queue size. Read once, as in TryWalk.
            var descriptor = SplitDescriptor.ReadOnce(_descriptors + head);
            if ((descriptor.Flags & (SplitRing.VIRTQ_DESC_F_INDIRECT | SplitRing.VIRTQ_DESC_F_NEXT | SplitRing.VIRTQ_DESC_F_WRITE)) != writable
                || !TryFindRun(descriptor.Address, descriptor.Length, head, access, section, out runs[taken]))
                break;
            _nextAvailable++;
        }

        return taken;
    }

    private protected override bool TryFetchAll()
    {
        if (!_copy!.TryFetchAll())
            return false;
        BeginAtUsed();
        return true;
    }

    internal override void LetGo()
    {
        base.LetGo();
        _nextAvailable = (ushort)(_publishedUsed + _ahead);
    }

    /// <inheritdoc/>
    public override void Complete(DescriptorChain chain, uint written)
    {
        Release(chain, written);
        if (_order is { } order)
        {
            if (order.TryPass(chain))
                Use(UsedOrder.Held.Of(chain, written));
            else
                order.Complete(chain, written);
            while (order.TryEnd(out var held))
                Use(held);
            return;
        }

        Use(_nextUsed, chain.Head, written);
        _nextUsed++;
        _unpublishedSlots += chain.Slots;
    }

    /// <inheritdoc/>
    public override bool Publish()
    {
        Show();
        return IsNoticeWanted();
    }

    internal override int Untold => _untoldSlots;

    internal override void Show()
    {
        var old = _publishedUsed;
        if (_nextUsed == old)
            return;
        // The elements, before the index that announces them.
        _copy?.StoreUsed(old, _nextUsed);
        // Release: the used elements are seen before the index that announces them (2.7.8.2).
        Volatile.Write(ref Index(_used), _nextUsed);
        _publishedUsed = _nextUsed;
        _isBatchOpen = false;
        _untoldSlots += _unpublishedSlots;
        _unpublishedSlots = 0;
        Stored(2, 2);
        if (_dma!.IsLogged)
            MarkUsed(old, _nextUsed);
        // Full fence: the index has to be out before the driver's wish is read, or both sides may sleep (2.7.10).
        Interlocked.MemoryBarrier();
    }

    internal override bool IsNoticeWanted()
    {
        var old = _toldUsed;
        if (_publishedUsed == old)
            return false;
        _toldUsed = _publishedUsed;
        _untoldSlots = 0;
        _copy?.FetchWish();
        if (_eventIndex)
            return SplitRing.NeedEvent(Volatile.Read(ref *(ushort*)(_available + 4 + (2 * Size))), _publishedUsed, old);
        return (Volatile.Read(ref *(ushort*)_available) & SplitRing.VIRTQ_AVAIL_F_NO_INTERRUPT) == 0;
    }

    /// <inheritdoc/>
    public override bool HasAvailable() => HasAvailable(_nextAvailable);

    /// <inheritdoc/>
    public override void DisableKicks()
    {
        if (!_kicksEnabled)
            return;
        _kicksEnabled = false;
        // With event indexes the one that was waited for lies behind; the flags field is not used (2.7.10).
        if (!_eventIndex)
            WriteFlags(SplitRing.VIRTQ_USED_F_NO_NOTIFY);
    }

    /// <inheritdoc/>
    public override bool EnableKicks()
    {
        _kicksEnabled = true;
        var from = _kicksFrom ?? _nextAvailable;
        if (_eventIndex)
        {
            Volatile.Write(ref *(ushort*)(_used + 4 + (8 * Size)), from);
            Stored(4 + (8 * Size), 2);
        }
        else
        {
            WriteFlags(0);
        }

        // Full fence: the wish has to be out before the index is read again, or both sides may sleep (2.7.10).
        Interlocked.MemoryBarrier();
        return HasAvailable(from);
    }

    private protected override void MarkEnd() => _kicksFrom = _nextAvailable;

    private bool HasAvailable(ushort from) => !IsLaden && (from != _seenAvailable || IsAnnounced(from));

    // SAFETY: idx is the second 16-bit word of both rings, whose areas were checked when the queue started.
    private static ref ushort Index(byte* ring) => ref *(ushort*)(ring + 2);

    private bool TryFindAreas(in RingLayout layout, DmaPort dma, out Fault fault)
    {
        var descriptors = new IovaRange(layout.DescriptorArea, SplitRing.DescriptorAreaSize(layout.Size));
        var driver = new IovaRange(layout.DriverArea, SplitRing.DriverAreaSize(layout.Size));
        var device = new IovaRange(layout.DeviceArea, SplitRing.DeviceAreaSize(layout.Size));
        var error = Errno.EFAULT;
        if (dma.TryEnter(out var section))
        {
            // Host addresses have to be aligned too: indexes are read and written as one word each.
            error = RingArea.Find(section, descriptors, DmaAccess.Read, 15, out var table);
            error = RingArea.Worse(error, RingArea.Find(section, driver, DmaAccess.Read, 1, out var available));
            error = RingArea.Worse(error, RingArea.Find(section, device, DmaAccess.ReadWrite, 3, out var used));
            section.Leave();
            _descriptors = (SplitDescriptor*)table;
            _available = (byte*)available;
            _used = (byte*)used;
        }

        if (error == Errno.EOPNOTSUPP)
        {
            var copy = new SplitRingCopy(layout, MakeFar(dma));
            _copy = copy;
            _descriptors = (SplitDescriptor*)copy.Descriptors;
            _available = copy.Available;
            _used = copy.Used;
            error = Errno.None;
        }

        fault = error == Errno.None ? Fault.None : new Fault(Errno.EFAULT, "a ring is not all in the memory that the device reaches, or not aligned there");
        if (error == Errno.None)
            Begin(layout, dma, descriptors, driver, device);
        return error == Errno.None;
    }

    // SAFETY: the index is masked to the ring, whose area was checked when the queue started.
    private void Use(ushort index, ushort head, uint written) => *(ulong*)(_used + 4 + (8 * (index & _mask))) = head | ((ulong)written << 32);

    // One element may stand for those before it that were used whole, where the first of them would have its own (2.7.9).
    private void Use(UsedOrder.Held held)
    {
        if (!_isBatchOpen)
            _batch = _nextUsed;
        Use(_batch, held.Head, held.Written);
        _isBatchOpen = held.IsWhole;
        _nextUsed++;
        _unpublishedSlots += held.Slots;
    }

    private void BeginAtUsed()
    {
        _nextUsed = Volatile.Read(ref Index(_used));
        _publishedUsed = _nextUsed;
        _toldUsed = _nextUsed;
        _unpublishedSlots = 0;
        _untoldSlots = 0;
        _ahead = (ushort)(_nextAvailable - _nextUsed);
    }

    private bool IsAnnounced(ushort from)
    {
        // What can't be read is for TryTake to say.
        if (_copy is not null && !_copy.TryFetchIndex())
            return true;
        return Volatile.Read(ref Index(_available)) != from;
    }

    private void WriteFlags(ushort flags)
    {
        Volatile.Write(ref *(ushort*)_used, flags);
        Stored(0, 2);
    }

    // A word of the used ring was written.
    private void Stored(int offset, int length)
    {
        if (_copy is not null)
            _copy.Store(offset, length);
        else if (_dma!.IsLogged)
            _dma.MarkWritten(new Iova(_usedAddress.Value + (uint)offset), (uint)length);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private void MarkUsed(ushort from, ushort to)
    {
        // What was sent is marked already.
        if (_copy is not null)
            return;
        for (; from != to; from++)
            _dma!.MarkWritten(new Iova(_usedAddress.Value + 4 + (8 * (uint)(from & _mask))), 8);
    }

    // How many the driver has made available, and were not taken.
    private int Waiting(out Fault fault)
    {
        fault = Fault.None;
        if (IsLaden)
            return 0;
        if (_nextAvailable == _seenAvailable)
        {
            if (_copy is not null && !_copy.TryFetch(_nextAvailable, out fault))
                return 0;
            // Acquire: ring entries and descriptors are read after the index that announces them (2.7.13.3).
            _seenAvailable = Volatile.Read(ref Index(_available));
        }

        var waiting = (ushort)(_seenAvailable - _nextAvailable);
        if (waiting <= Size)
            return waiting;
        _seenAvailable = _nextAvailable;
        fault = new Fault(Errno.EPROTO, "the available index moved by more than the queue size");
        return 0;
    }

    private bool TryTake(DescriptorChain chain, ref DmaSection section, out Fault fault)
    {
        // Once, as a descriptor is: what was checked is what is used.
        var head = Volatile.Read(ref *(ushort*)(_available + 4 + (2 * (_nextAvailable & _mask))));
        if (head >= Size)
        {
            fault = new Fault(Errno.EPROTO, "the available ring names a descriptor beyond the queue size");
            return false;
        }

        chain.Clear(head);
        if (!TryWalk(chain, head, ref section, out var slots, out fault) || !TryKeep(chain, slots, out fault))
        {
            chain.LetGo();
            return false;
        }

        _nextAvailable++;
        return true;
    }

    // Slots are the ring's own descriptors.
    private bool TryWalk(DescriptorChain chain, ushort head, ref DmaSection section, out int slots, out Fault fault)
    {
        slots = 0;
        var table = _descriptors;
        var entries = Size;
        // A chain that visits more descriptors than its table has runs in a circle (2.7.5).
        var left = Size;
        var inIndirect = false;
        uint at = head;
        while (true)
        {
            if (left-- == 0)
            {
                fault = new Fault(Errno.ELOOP, inIndirect ? "a descriptor chain is longer than its indirect table" : "a descriptor chain is longer than the queue size");
                return false;
            }

            // SAFETY: `at` is below `entries`, checked for the head and after each step. Read once into a local: the driver may change the
            // descriptor at any moment, so only what was checked is used.
            var descriptor = SplitDescriptor.ReadOnce(table + at);
            if ((descriptor.Flags & SplitRing.VIRTQ_DESC_F_INDIRECT) != 0)
            {
                if (!TryEnterIndirect(
                    new IovaRange(new Iova(descriptor.Address), descriptor.Length), descriptor.Flags, inIndirect, ref section, out var indirect, out fault))
                    return false;
                table = indirect.Entries;
                entries = (int)(descriptor.Length / SplitRing.DescriptorSize);
                slots = Size - left;
                left = entries;
                inIndirect = true;
                at = 0;
                continue;
            }

            var writable = (descriptor.Flags & SplitRing.VIRTQ_DESC_F_WRITE) != 0;
            if (!TryAddBuffer(chain, descriptor.Address, descriptor.Length, writable, ref section, out fault))
                return false;
            if ((descriptor.Flags & SplitRing.VIRTQ_DESC_F_NEXT) == 0)
            {
                if (!inIndirect)
                    slots = Size - left;
                return true;
            }

            at = descriptor.Next;
            if (at >= (uint)entries)
            {
                fault = new Fault(Errno.EPROTO, "a descriptor's next lies beyond its table");
                return false;
            }
        }
    }
}
