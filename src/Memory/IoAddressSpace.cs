using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Memory;

/// <summary>
/// What a device does DMA through: memory of this process, or of a peer, is mapped and unmapped here in the sense of vfio's type1v2. Devices
/// reach it through a <see cref="DmaPort"/>, what has no device through an <see cref="IoAccess"/>; who has to give it to somebody else takes a
/// <see cref="Snapshot"/>. Safe from any thread.
/// </summary>
/// <remarks>
/// Look-ups take no lock and allocate nothing. A call that takes memory away returns when nobody is inside it any more; it may be made
/// from a callback of this library, a fault's included. No callback is made under a lock.
/// </remarks>
public sealed partial class IoAddressSpace : IDisposable
{
    private static readonly Fault Unaligned = new(Errno.EINVAL, "the range is empty, wraps around the end of the address space or is no multiple of its granule");
    private static readonly Fault Split = new(Errno.EINVAL, "the unmap would split a mapping");
    private static readonly Fault NoMapLeft = new(Errno.ENOSPC, "the address space has as many maps as it may have");
    private static int _numbers;

    private readonly Lock _lock = new();
    private readonly IoAddressSpaceOptions _options;
    private readonly HashSet<IoPin> _pins = [];
    private MappingIndex _index = new();
    private TranslationTable _table = TranslationTable.Create(new MappingIndex());
    private RemotePeer[] _peers = [];
    private DmaPort[] _ports = [];
    private IoMap? _current;
    private DirtyLog? _log;
    // Moves on before a range goes.
    private int _version;
    private bool _disposed;

    /// <summary>Makes a space with a granule of 4096, for up to 65535 maps anywhere.</summary>
    public IoAddressSpace()
        : this(new IoAddressSpaceOptions())
    {
    }

    /// <summary>Makes a space.</summary>
    /// <param name="options">What it allows.</param>
    /// <exception cref="ArgumentException">The options make no sense.</exception>
    public IoAddressSpace(IoAddressSpaceOptions options)
    {
        if (!ulong.IsPow2(options.Granule) || options.MaxMaps is < 1 or > IoAddressSpaceOptions.MaxMapsLimit || options.Lowest.Value > options.Highest.Value)
            throw new ArgumentException("The granule is no power of two, the number of maps out of range, or the lowest address above the highest.", nameof(options));
        _options = options;
        uint number;
        do
            number = (uint)Interlocked.Increment(ref _numbers);
        while (number == 0);
        Number = number;
    }

    /// <summary>How many ranges are mapped.</summary>
    public int Count
    {
        get
        {
            lock (_lock)
                return _index.Count;
        }
    }

    /// <summary>What it allows.</summary>
    public IoAddressSpaceOptions Options => _options;

    /// <summary>By which sections tell spaces apart; never 0. Two spaces with the same number would only wait for each other's.</summary>
    internal uint Number { get; }

    internal bool IsLogged => Volatile.Read(ref _log) is not null;

    /// <summary>Maps memory of this process at an address.</summary>
    /// <param name="start">First address.</param>
    /// <param name="size">Size in bytes, above 0; the end may be 2^64.</param>
    /// <param name="memory">What lies behind; the space takes a reference of its own.</param>
    /// <param name="offset">Byte offset in <paramref name="memory"/>, any.</param>
    /// <param name="access">What a device may do there; no more than the memory allows.</param>
    /// <param name="fault">
    /// EINVAL for a range that is empty, wraps, is not aligned, lies outside of what the space allows, or leaves the memory, and for no
    /// access; EEXIST for one that overlaps another; EACCES; ENOSPC when no map is left.
    /// </param>
    /// <returns>Whether it is mapped.</returns>
    public bool TryMap(Iova start, ulong size, HostMemory memory, ulong offset, DmaAccess access, out Fault fault)
    {
        if (!TryCheck(new IovaRange(start, size), access, out fault) || !TryCheck(size, memory, offset, access, out fault))
            return false;
        lock (_lock)
        {
            if (!TryMakeRoom(new IovaRange(start, size), out fault))
                return false;
            Add(IoMapping.ForHost(new IovaRange(start, size), memory, offset, access));
        }

        NotifyChanged(new DmaChange(DmaChangeKind.Mapped, new IovaRange(start, size)));
        return true;
    }

    /// <summary>Maps a peer's memory that this process reaches by messages only. It is not in a <see cref="Snapshot"/> and cannot be pinned.</summary>
    /// <param name="range">Where; whole granules.</param>
    /// <param name="memory">What moves the bytes.</param>
    /// <param name="access">What a device may do there.</param>
    /// <param name="fault">As the other one.</param>
    /// <returns>Whether it is mapped.</returns>
    public bool TryMap(IovaRange range, IRemoteMemory memory, DmaAccess access, out Fault fault)
    {
        if (!TryCheck(range, access, out fault))
            return false;
        lock (_lock)
        {
            if (!TryMakeRoom(range, out fault))
                return false;
            var mapping = IoMapping.ForRemote(range, memory, access);
            mapping.RemoteIndex = AddPeer(memory);
            Add(mapping);
        }

        NotifyChanged(new DmaChange(DmaChangeKind.Mapped, range));
        return true;
    }

    /// <summary>
    /// Unmaps every range inside, in the sense of type1v2: none is no error. No access to them through ports is under way after the return,
    /// but for one that waits for a peer's answer; maps that were handed out keep their memory until they are let go.
    /// </summary>
    /// <param name="range">What is unmapped; whole granules, its end may be 2^64.</param>
    /// <param name="unmapped">Bytes that were mapped and are no more.</param>
    /// <param name="fault">
    /// EINVAL: not aligned, or a mapping would be split; EBUSY: memory is pinned, and the holders, who were asked, did not let go. Nothing
    /// is unmapped then.
    /// </param>
    /// <returns>Whether nothing of the range is mapped any more.</returns>
    public bool TryUnmap(IovaRange range, out ulong unmapped, out Fault fault)
    {
        unmapped = 0;
        if (!IsWhole(range))
        {
            fault = Unaligned;
            return false;
        }

        return TryTakeOut(range.Start.Value, range.Last, out unmapped, out fault);
    }

    /// <summary>
    /// Whether an unmap of a range could go well: for who must do something before it that is not to be done for nothing. Pins are not looked
    /// at, since their holders are asked only when it is meant.
    /// </summary>
    /// <param name="range">What would be unmapped.</param>
    /// <param name="fault">EINVAL, as for <see cref="TryUnmap"/>.</param>
    public bool CanUnmap(IovaRange range, out Fault fault)
    {
        if (!IsWhole(range))
        {
            fault = Unaligned;
            return false;
        }

        lock (_lock)
        {
            fault = Splits(range.Start.Value, range.Last) ? Split : Fault.None;
            return fault.Errno == Errno.None;
        }
    }

    /// <summary>Unmaps everything. As <see cref="TryUnmap"/> for all addresses, which no <see cref="IovaRange"/> can hold.</summary>
    /// <param name="unmapped">Bytes that were mapped and are no more; 2^64-1 for all.</param>
    /// <param name="fault">EBUSY: memory is pinned, and the holders did not let go.</param>
    /// <returns>Whether nothing is mapped any more.</returns>
    public bool TryUnmapAll(out ulong unmapped, out Fault fault) => TryTakeOut(0, ulong.MaxValue, out unmapped, out fault);

    /// <summary>Opens a way in for what has no device: it reads, writes and pins, next to whatever devices are attached.</summary>
    /// <param name="name">Whose it is, for messages.</param>
    /// <param name="unmapping">
    /// Called with the range of an unmap that meets pins of this access, before anything is unmapped, on the thread that unmaps and not
    /// under a lock. It has to dispose those pins; else the unmap fails with EBUSY.
    /// </param>
    /// <returns>The access.</returns>
    public IoAccess OpenAccess(string name, Action<IovaRange>? unmapping) => new(this, name, unmapping);

    /// <summary>Starts to log the pages that anybody writes through the space.</summary>
    /// <param name="log">The log; one at a time.</param>
    /// <param name="fault">EBUSY: a log is attached already.</param>
    /// <returns>Whether writes from here on are logged.</returns>
    public bool TryStartLog(DirtyLog log, out Fault fault)
    {
        if (Interlocked.CompareExchange(ref _log, log, null) is not null)
        {
            fault = new Fault(Errno.EBUSY, "writes to the address space are logged already; stop that log first");
            return false;
        }

        AccessSlot.WaitForWrites(Number);
        fault = Fault.None;
        return true;
    }

    /// <summary>Reads the log and clears what was read. Pages that are pinned for writing count as written each time.</summary>
    /// <param name="range">What is asked for, in whole pages.</param>
    /// <param name="pageSize">Bytes that one bit of the answer stands for: a power of two of at least 4096.</param>
    /// <param name="bitmap">Bit n for page n of the range; bits that are set already stay set.</param>
    /// <param name="fault">EINVAL: no log, page size, alignment, or a bitmap too short.</param>
    /// <returns>Whether it was read.</returns>
    public bool TryReadLog(IovaRange range, ulong pageSize, Span<ulong> bitmap, out Fault fault)
    {
        if (Volatile.Read(ref _log) is not { } log)
        {
            fault = new Fault(Errno.EINVAL, "writes to the address space are not logged");
            return false;
        }

        lock (_lock)
        {
            foreach (var pin in _pins)
            {
                if (pin.Access.HasFlag(DmaAccess.Write))
                    log.Mark(pin.Range.Start, pin.Range.Size);
            }
        }

        return log.TryReadAndClear(range, pageSize, bitmap, out fault);
    }

    /// <summary>Ends logging; after the return nothing more is marked. Without effect when there is no log.</summary>
    public void StopLog()
    {
        if (Interlocked.Exchange(ref _log, null) is not null)
            AccessSlot.Drain(Number);
    }

    /// <summary>
    /// Unmaps everything, for good; pins keep their memory until they are disposed. Ports that are attached reach nothing any more. Maps
    /// that were handed out keep their memory until they are let go.
    /// </summary>
    public void Dispose()
    {
        AskToUnpin(0, ulong.MaxValue);
        IoMapping? removed;
        lock (_lock)
        {
            if (_disposed)
                return;
            _disposed = true;
            removed = RemoveAll(0, ulong.MaxValue, out _);
            Forget();
        }

        NotifyChanged(DmaChange.Everything);
        Release(removed);
    }

    /// <summary>Maps memory of this process where there is room, lowest address first.</summary>
    internal bool TryMapAnywhere(ulong size, ulong alignment, IovaRange reserved, HostMemory memory, DmaAccess access, out Iova start, out Fault fault)
    {
        start = default;
        lock (_lock)
        {
            if (!TryFindGap(size, alignment, reserved, out start))
            {
                fault = new Fault(Errno.ENOSPC, "the address space has no gap of that size");
                return false;
            }

            var range = new IovaRange(start, size);
            if (!TryCheck(range, access, out fault) || !TryCheck(size, memory, 0, access, out fault) || !TryMakeRoom(range, out fault))
                return false;
            Add(IoMapping.ForHost(range, memory, 0, access));
        }

        NotifyChanged(new DmaChange(DmaChangeKind.Mapped, new IovaRange(start, size)));
        return true;
    }

    internal void Attach(DmaPort port)
    {
        lock (_lock)
            Volatile.Write(ref _ports, [.. _ports, port]);
    }

    /// <summary>Takes back one <see cref="Attach"/>; a port that came again while it was let go is there twice meanwhile.</summary>
    internal void Detach(DmaPort port)
    {
        lock (_lock)
        {
            var at = Array.IndexOf(_ports, port);
            if (at >= 0)
                Volatile.Write(ref _ports, [.. _ports[..at], .. _ports[(at + 1)..]]);
        }
    }

    /// <summary>Maps other memory instead of all that is mapped, at once: an access finds either. On a fault nothing changes.</summary>
    internal bool TryReplaceAll(IReadOnlyList<(IovaRange Range, HostMemory Memory)> maps, DmaAccess access, out Fault fault)
    {
        fault = Fault.None;
        var index = new MappingIndex();
        IoMapping? removed = null;
        AskToUnpin(0, ulong.MaxValue);
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            foreach (var (range, memory) in maps)
            {
                if (!TryCheck(range, access, out fault) || !TryCheck(range.Size, memory, 0, access, out fault))
                    break;
                if (index.Overlaps(range.Start.Value, range.Last))
                    fault = new Fault(Errno.EEXIST, "the range overlaps another one");
                else if (index.Count >= _options.MaxMaps)
                    fault = NoMapLeft;
                else
                    index.Add(IoMapping.ForHost(range, memory, 0, access));
                if (fault.Errno != Errno.None)
                    break;
            }

            if (fault.Errno != Errno.None)
            {
                foreach (var mapping in index.All())
                    mapping.Memory!.Dispose();
                return false;
            }

            foreach (var mapping in _index.All())
            {
                mapping.Next = removed;
                removed = mapping;
            }

            Interlocked.Increment(ref _version);
            Volatile.Write(ref _table, TranslationTable.Create(index));
            _index = index;
            AccessSlot.Drain(Number);
            for (var mapping = removed; mapping is not null; mapping = mapping.Next)
            {
                if (mapping.RemoteIndex >= 0)
                    RemovePeer(mapping.RemoteIndex);
            }

            Forget();
        }

        NotifyChanged(DmaChange.Everything);
        Release(removed);
        return true;
    }

    private static bool TryCheck(ulong size, HostMemory memory, ulong offset, DmaAccess access, out Fault fault)
    {
        fault = Fault.None;
        if (offset > memory.Size || size > memory.Size - offset)
            fault = new Fault(Errno.EINVAL, "the range is larger than the memory behind it");
        else if ((memory.Access & access) != access)
            fault = new Fault(Errno.EACCES, "the memory does not allow that access");
        return fault.Errno == Errno.None;
    }

    private static void Release(IoMapping? removed)
    {
        for (; removed is not null; removed = removed.Next)
            removed.Memory?.Dispose();
    }

    private bool IsWhole(IovaRange range) =>
        range.Size != 0 && range.Size - 1 <= ulong.MaxValue - range.Start.Value && ((range.Start.Value | range.Size) & (_options.Granule - 1)) == 0;

    private bool TryCheck(IovaRange range, DmaAccess access, out Fault fault)
    {
        fault = Fault.None;
        if (!IsWhole(range))
            fault = Unaligned;
        else if (range.Start.Value < _options.Lowest.Value || range.Last > _options.Highest.Value)
            fault = new Fault(Errno.EINVAL, "the range lies outside of the addresses that the space allows");
        else if ((access & DmaAccess.ReadWrite) == DmaAccess.None || (access & ~DmaAccess.ReadWrite) != DmaAccess.None)
            fault = new Fault(Errno.EINVAL, "a map allows reads, writes or both");
        return fault.Errno == Errno.None;
    }

    private bool TryMakeRoom(IovaRange range, out Fault fault)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        fault = Fault.None;
        if (_index.Overlaps(range.Start.Value, range.Last))
            fault = new Fault(Errno.EEXIST, "the range overlaps another one");
        else if (_index.Count >= _options.MaxMaps)
            fault = NoMapLeft;
        return fault.Errno == Errno.None;
    }

    private void Add(IoMapping mapping)
    {
        if (_table.IsFull)
            Volatile.Write(ref _table, TranslationTable.Create(_index));
        _table.Add(mapping, _index);
        _index.Add(mapping);
        Forget();
    }

    private bool TryTakeOut(ulong first, ulong last, out ulong unmapped, out Fault fault)
    {
        unmapped = 0;
        var asked = false;
        IoMapping? removed;
        while (true)
        {
            lock (_lock)
            {
                if (Splits(first, last))
                {
                    fault = Split;
                    return false;
                }

                if (!HasPins(first, last))
                {
                    removed = RemoveAll(first, last, out unmapped);
                    if (removed is not null)
                        Forget();
                    break;
                }
            }

            if (asked)
            {
                fault = new Fault(Errno.EBUSY, "memory in the range is pinned, and its holder does not let go");
                return false;
            }

            AskToUnpin(first, last);
            asked = true;
        }

        fault = Fault.None;
        if (removed is null)
            return true;
        NotifyChanged(first == 0 && last == ulong.MaxValue
            ? DmaChange.Everything
            : new DmaChange(DmaChangeKind.Unmapped, new IovaRange(new Iova(first), last - first + 1)));
        Release(removed);
        return true;
    }

    // Under the lock.
    private bool Splits(ulong first, ulong last) =>
        (_index.AtOrBelow(first) is { } left && left.Start < first && left.Last >= first) ||
        (_index.AtOrBelow(last) is { } right && right.Last > last);

    // Under the lock, so that no second unmap of the range returns before the first one drained it. Answers a list of what was removed.
    private IoMapping? RemoveAll(ulong first, ulong last, out ulong size)
    {
        size = 0;
        IoMapping? removed = null;
        while (_index.AtOrAbove(first) is { } mapping && mapping.Start <= last)
        {
            if (removed is null)
                Interlocked.Increment(ref _version);
            _index.Remove(mapping);
            _table.Remove(mapping);
            mapping.Next = removed;
            removed = mapping;
            size = size + mapping.Range.Size < size ? ulong.MaxValue : size + mapping.Range.Size;
        }

        if (removed is null)
            return null;
        AccessSlot.Drain(Number);
        for (var mapping = removed; mapping is not null; mapping = mapping.Next)
        {
            _table.Reclaim(mapping);
            if (mapping.RemoteIndex >= 0)
                RemovePeer(mapping.RemoteIndex);
        }

        if (_table.IsSparse)
            Volatile.Write(ref _table, TranslationTable.Create(_index));
        return removed;
    }

    private void NotifyChanged(in DmaChange change)
    {
        foreach (var port in Volatile.Read(ref _ports))
            port.Notify(change);
    }

    private record struct RemotePeer(IRemoteMemory Memory, int Count);
}
