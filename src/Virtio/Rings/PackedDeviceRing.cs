using System.Runtime.InteropServices;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Virtio.Rings;

/// <summary>The device side of a packed virtqueue (VIRTIO 1.2, 2.8).</summary>
public sealed unsafe class PackedDeviceRing : DeviceRing
{
    private PackedRingCopy? _copy;
    private Iova _ringAddress;
    private Iova _deviceAddress;
    private PackedDescriptor* _descriptors;
    // Whose flags say what is available: the ring's own, or those that were fetched before it.
    private PackedDescriptor* _heads;
    private uint* _driverEvent;
    private uint* _deviceEvent;
    private int _nextAvailable;
    private bool _availableWrap;
    // Where the driver looks for the next used descriptor.
    private int _nextUsed;
    private bool _usedWrap;
    // Used descriptors that the driver does not see yet: the ring stays as it is until they are published, so that who goes on from there finds all.
    private Used[] _unpublished = [];
    private int _unpublishedCount;
    // Descriptors of the ring that those stand for; and with them those that are with the device.
    private int _unpublishedSlots;
    // That the driver sees, and was not told of yet.
    private int _untoldSlots;
    private int _openSlots;
    // By how many what is taken was before what is used at the start.
    private int _ahead;
    // Whether the last one may stand for one more that is used in order.
    private bool _isBatchOpen;
    private bool _kicksEnabled;
    // From where on a kick is asked for, where that is not what comes next.
    private (int Next, bool Wrap)? _kicksFrom;

    /// <inheritdoc/>
    public override bool IsFar => _copy is not null;

    /// <inheritdoc/>
    public override QueueState State
    {
        get
        {
            QueueState.TryPacked((ushort)_nextAvailable, _availableWrap, (ushort)_nextUsed, _usedWrap, out var state, out _);
            return state;
        }
    }

    /// <inheritdoc/>
    /// <remarks>Nothing of the state stands in the ring: who serves it after another back end needs what that one says (2.8.1).</remarks>
    public override bool TryStart(in RingLayout layout, DmaPort dma, QueueState state, out Fault fault)
    {
        if (IsStarted)
            throw new InvalidOperationException("The queue is started already.");
        if (!state.IsPacked)
            return Refuse("the queue's state is that of a split ring", out fault);
        if (layout.Size is < 1 or > PackedRing.MaxSize)
            return Refuse("the queue size is not from 1 to 32768", out fault);
        if ((layout.DescriptorArea.Value & 15) != 0 || (layout.DriverArea.Value & 3) != 0 || (layout.DeviceArea.Value & 3) != 0)
            return Refuse("a ring address is not aligned (descriptors to 16, event areas to 4 bytes)", out fault);
        // What is taken and not used lies between the two places.
        var ahead = state.NextAvailable - state.NextUsed + (state.AvailableWrap == state.UsedWrap ? 0 : layout.Size);
        if (state.NextAvailable >= layout.Size || state.NextUsed >= layout.Size || ahead < 0 || ahead > layout.Size)
            return Refuse("the queue's state is none that a ring of its size can have", out fault);
        if (!TryFindAreas(layout, dma, out fault))
            return false;
        _ringAddress = layout.DescriptorArea;
        _deviceAddress = layout.DeviceArea;
        (_nextAvailable, _availableWrap) = (state.NextAvailable, state.AvailableWrap);
        (_nextUsed, _usedWrap) = (state.NextUsed, state.UsedWrap);
        _ahead = ahead;
        if (_unpublished.Length != layout.Size)
            _unpublished = new Used[layout.Size];
        _unpublishedCount = 0;
        _unpublishedSlots = 0;
        _untoldSlots = 0;
        _openSlots = 0;
        _isBatchOpen = false;
        _kicksEnabled = false;
        _kicksFrom = null;
        return TryBegin(out fault);
    }

    /// <inheritdoc/>
    public override void Stop()
    {
        End();
        _copy = null;
        _descriptors = null;
        _heads = null;
        _driverEvent = null;
        _deviceEvent = null;
    }

    /// <inheritdoc/>
    public override int Take(ReadOnlySpan<DescriptorChain> chains, out Fault fault)
    {
        _isHeldUp = false;
        _kicksFrom = null;
        fault = Fault.None;
        if (chains.IsEmpty || IsLaden || !IsFetched(out fault))
            return 0;
        foreach (var chain in chains)
            Enlist(chain);
        // One stay for all, which ends and begins anew where something is waited for.
        if (!TryEnter(out var section, out fault))
            return 0;
        _taken = 0;
        foreach (var chain in chains)
        {
            // Of a driver that asks for much, some has to be back first.
            if (IsLaden || !IsNextAvailable() || !TryTake(chain, ref section, out fault))
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
            _openSlots -= chain.Slots;
            TakeBack(chain.Slots);
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

        Add(run.Head, written);
        _unpublishedSlots++;
    }

    /// <inheritdoc/>
    public override void PutBackRuns(int count)
    {
        _openSlots -= count;
        TakeBack(count);
    }

    private protected override int FindRuns(Span<RingRun> runs, DmaAccess access, in DmaSection section)
    {
        _kicksFrom = null;
        var writable = access == DmaAccess.Write ? PackedRing.VIRTQ_DESC_F_WRITE : 0;
        var taken = 0;
        // More than the queue has are for Take to find fault with.
        var most = Math.Min(runs.Length, Size - _openSlots);
        while (taken < most && IsNextAvailable())
        {
            // SAFETY: as in TryWalk.
            var descriptor = PackedDescriptor.ReadOnce(_descriptors + _nextAvailable);
            if ((descriptor.Flags & (PackedRing.VIRTQ_DESC_F_INDIRECT | PackedRing.VIRTQ_DESC_F_NEXT | PackedRing.VIRTQ_DESC_F_WRITE)) != writable
                || !TryFindRun(descriptor.Address, descriptor.Length, descriptor.Id, access, section, out runs[taken]))
                break;
            taken++;
            GoOn(ref _nextAvailable, ref _availableWrap, 1);
        }

        _openSlots += taken;
        return taken;
    }

    private protected override bool TryFetchAll() => _copy!.TryFetchAll();

    internal override void LetGo()
    {
        base.LetGo();
        _unpublishedCount = 0;
        _unpublishedSlots = 0;
        _openSlots = 0;
        _isBatchOpen = false;
        (_nextAvailable, _availableWrap) = (_nextUsed, _usedWrap);
        GoOn(ref _nextAvailable, ref _availableWrap, _ahead);
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

        Add(chain.Head, written);
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
        if (_unpublishedCount == 0)
            return;
        var used = _unpublished.AsSpan(0, _unpublishedCount);
        if (_copy is not null)
            Send(used);
        else
            Store(used);
        var slots = _unpublishedSlots;
        GoOn(ref _nextUsed, ref _usedWrap, slots);
        _openSlots -= slots;
        _unpublishedCount = 0;
        _unpublishedSlots = 0;
        _isBatchOpen = false;
        // Full fence: the descriptors have to be out before the driver's wish is read, or both sides may sleep (2.8.21.3).
        Interlocked.MemoryBarrier();
        _untoldSlots += slots;
    }

    internal override bool IsNoticeWanted()
    {
        var slots = _untoldSlots;
        if (slots == 0)
            return false;
        _untoldSlots = 0;
        _copy?.FetchWish();
        return PackedRing.NeedEvent(Volatile.Read(ref *_driverEvent), _eventIndex, Size, _nextUsed, _usedWrap, slots);
    }

    /// <inheritdoc/>
    public override bool HasAvailable() => HasAvailable(_nextAvailable, _availableWrap);

    /// <inheritdoc/>
    public override void DisableKicks()
    {
        if (!_kicksEnabled)
            return;
        _kicksEnabled = false;
        WriteWish(PackedRing.Event(0, PackedRing.RING_EVENT_FLAGS_DISABLE));
    }

    /// <inheritdoc/>
    public override bool EnableKicks()
    {
        _kicksEnabled = true;
        var (next, wrap) = _kicksFrom ?? (_nextAvailable, _availableWrap);
        WriteWish(_eventIndex
            ? PackedRing.Event(PackedRing.Place(next, wrap), PackedRing.RING_EVENT_FLAGS_DESC)
            : PackedRing.Event(0, PackedRing.RING_EVENT_FLAGS_ENABLE));
        // Full fence: the wish has to be out before the ring is read again, or both sides may sleep (2.8.21.3).
        Interlocked.MemoryBarrier();
        return HasAvailable(next, wrap);
    }

    private protected override void MarkEnd() => _kicksFrom = (_nextAvailable, _availableWrap);

    private static bool Refuse(string why, out Fault fault)
    {
        fault = new Fault(Errno.EINVAL, why);
        return false;
    }

    private bool TryFindAreas(in RingLayout layout, DmaPort dma, out Fault fault)
    {
        var descriptors = new IovaRange(layout.DescriptorArea, PackedRing.DescriptorAreaSize(layout.Size));
        var driver = new IovaRange(layout.DriverArea, PackedRing.EventSize);
        var device = new IovaRange(layout.DeviceArea, PackedRing.EventSize);
        var error = Errno.EFAULT;
        if (dma.TryEnter(out var section))
        {
            // Host addresses have to be aligned too: what is announced by one word is read and written as one.
            error = RingArea.Find(section, descriptors, DmaAccess.ReadWrite, 15, out var ring);
            error = RingArea.Worse(error, RingArea.Find(section, driver, DmaAccess.Read, 3, out var driverEvent));
            error = RingArea.Worse(error, RingArea.Find(section, device, DmaAccess.ReadWrite, 3, out var deviceEvent));
            section.Leave();
            _descriptors = _heads = (PackedDescriptor*)ring;
            _driverEvent = (uint*)driverEvent;
            _deviceEvent = (uint*)deviceEvent;
        }

        if (error == Errno.EOPNOTSUPP)
        {
            var copy = new PackedRingCopy(layout, MakeFar(dma));
            _copy = copy;
            _descriptors = copy.Descriptors;
            _heads = copy.Heads;
            _driverEvent = copy.DriverEvent;
            _deviceEvent = copy.DeviceEvent;
            error = Errno.None;
        }

        fault = error == Errno.None ? Fault.None : new Fault(Errno.EFAULT, "a ring is not all in the memory that the device reaches, or not aligned there");
        if (error == Errno.None)
            Begin(layout, dma, descriptors, driver, device);
        return error == Errno.None;
    }

    // Acquire: what belongs to a descriptor is read after the flags that make it available (2.8.21.1).
    // SAFETY: the place is below the queue size, and the ring's area was checked when the queue started.
    private bool IsAvailable(int next, bool wrap) => PackedRing.IsAvailable(PackedDescriptor.ReadFlags(_heads + next), wrap);

    private bool IsNextAvailable() => IsAvailable(_nextAvailable, _availableWrap);

    // What can't be read is for TryTake to say.
    private bool HasAvailable(int next, bool wrap) => !IsLaden && (IsAvailable(next, wrap) || (_copy is not null && _copy.IsAnnounced(next, wrap)));

    private bool IsFetched(out Fault fault)
    {
        fault = Fault.None;
        if (IsNextAvailable())
            return true;
        return _copy is not null && _copy.TryFetch(out fault) && IsNextAvailable();
    }

    private bool TryTake(DescriptorChain chain, ref DmaSection section, out Fault fault)
    {
        chain.Clear();
        if (!TryWalk(chain, ref section, out var slots, out fault) || !TryKeep(chain, slots, out fault))
        {
            chain.LetGo();
            return false;
        }

        _openSlots += slots;
        GoOn(ref _nextAvailable, ref _availableWrap, slots);
        return true;
    }

    private bool TryWalk(DescriptorChain chain, ref DmaSection section, out int slots, out Fault fault)
    {
        var at = _nextAvailable;
        for (slots = 1; ; slots++)
        {
            // A driver makes a descriptor available again when it was used. So a chain that goes on and on ends here too.
            if (_openSlots + slots > Size)
            {
                fault = _openSlots == 0
                    ? new Fault(Errno.ELOOP, "a descriptor chain is longer than the queue size")
                    : new Fault(Errno.EPROTO, "more descriptors were made available than the queue has");
                return false;
            }

            // SAFETY: `at` is below the queue size. Read once into a local: the driver may change the descriptor at any moment, so only what was
            // checked is used.
            var descriptor = PackedDescriptor.ReadOnce(_descriptors + at);
            if ((descriptor.Flags & PackedRing.VIRTQ_DESC_F_INDIRECT) != 0)
            {
                chain.Head = descriptor.Id;
                return TryWalkTable(chain, descriptor, ref section, out fault);
            }

            var writable = (descriptor.Flags & PackedRing.VIRTQ_DESC_F_WRITE) != 0;
            if (!TryAddBuffer(chain, descriptor.Address, descriptor.Length, writable, ref section, out fault))
                return false;
            if ((descriptor.Flags & PackedRing.VIRTQ_DESC_F_NEXT) == 0)
            {
                // The last one has the id of the whole (2.8.6).
                chain.Head = descriptor.Id;
                return true;
            }

            at = at + 1 == Size ? 0 : at + 1;
        }
    }

    // The entries lie one behind the other; of their flags only WRITE counts (2.8.7).
    private bool TryWalkTable(DescriptorChain chain, in PackedDescriptor descriptor, ref DmaSection section, out Fault fault)
    {
        var place = new IovaRange(new Iova(descriptor.Address), descriptor.Length);
        if (!TryEnterIndirect(place, descriptor.Flags, false, ref section, out var table, out fault))
            return false;
        for (var i = 0; i < (int)(descriptor.Length / PackedRing.DescriptorSize); i++)
        {
            // SAFETY: the table was copied whole, and has been checked to hold so many.
            var entry = PackedDescriptor.ReadOnce(table.PackedEntries + i);
            if ((entry.Flags & PackedRing.VIRTQ_DESC_F_INDIRECT) != 0)
            {
                fault = new Fault(Errno.EPROTO, "an indirect table holds an indirect descriptor");
                return false;
            }

            var writable = (entry.Flags & PackedRing.VIRTQ_DESC_F_WRITE) != 0;
            if (!TryAddBuffer(chain, entry.Address, entry.Length, writable, ref section, out fault))
                return false;
        }

        return true;
    }

    private void Add(ushort id, uint written)
    {
        var (place, wrap) = (_nextUsed, _usedWrap);
        GoOn(ref place, ref wrap, _unpublishedSlots);
        var flags = PackedRing.Used(wrap) | (written == 0 ? 0 : PackedRing.VIRTQ_DESC_F_WRITE);
        _unpublished[_unpublishedCount++] = new Used(PackedDescriptor.Rest(written, id, (ushort)flags), place);
    }

    // One descriptor may stand for those before it that were used whole, where the first of them would have its own (2.8.9).
    private void Use(UsedOrder.Held held)
    {
        if (_isBatchOpen)
        {
            ref var batch = ref _unpublished[_unpublishedCount - 1];
            var flags = (batch.Rest >> 48 & ~(ulong)PackedRing.VIRTQ_DESC_F_WRITE) | (held.Written == 0 ? 0UL : PackedRing.VIRTQ_DESC_F_WRITE);
            batch = batch with { Rest = PackedDescriptor.Rest(held.Written, held.Head, (ushort)flags) };
        }
        else
        {
            Add(held.Head, held.Written);
        }

        _isBatchOpen = held.IsWhole;
        _unpublishedSlots += held.Slots;
    }

    // SAFETY: the places are below the queue size, and the ring's area was checked when the queue started.
    private void Store(ReadOnlySpan<Used> used)
    {
        // The driver looks at the first one first: it comes last, and shows all of them at once.
        for (var i = 1; i < used.Length; i++)
            PackedDescriptor.WriteRest(_descriptors + used[i].Place, used[i].Rest);
        PackedDescriptor.WriteRest(_descriptors + used[0].Place, used[0].Rest);
        if (!_dma!.IsLogged)
            return;
        foreach (var one in used)
            _dma.MarkWritten(RestAddress(one.Place), sizeof(ulong));
    }

    // To a peer in the same order. What does not arrive is counted and reported by the port.
    private void Send(ReadOnlySpan<Used> used)
    {
        for (var i = used.Length - 1; i >= 0; i--)
        {
            var rest = used[i].Rest;
            _far!.TryWrite(RestAddress(used[i].Place), MemoryMarshal.AsBytes(new ReadOnlySpan<ulong>(in rest)), isRing: true);
        }
    }

    private Iova RestAddress(int place) => new(_ringAddress.Value + ((ulong)place * PackedRing.DescriptorSize) + 8);

    private void WriteWish(uint wish)
    {
        Volatile.Write(ref *_deviceEvent, wish);
        if (_copy is not null)
            _far!.TryWrite(_deviceAddress, MemoryMarshal.AsBytes(new ReadOnlySpan<uint>(in wish)), isRing: true);
        else if (_dma!.IsLogged)
            _dma.MarkWritten(_deviceAddress, PackedRing.EventSize);
    }

    private void TakeBack(int slots)
    {
        _nextAvailable -= slots;
        if (_nextAvailable >= 0)
            return;
        _nextAvailable += Size;
        _availableWrap = !_availableWrap;
    }

    private void GoOn(ref int place, ref bool wrap, int slots)
    {
        place += slots;
        if (place < Size)
            return;
        place -= Size;
        wrap = !wrap;
    }

    // The word of a used descriptor, and where it goes.
    private record struct Used(ulong Rest, int Place);
}
