using System.Runtime.CompilerServices;
using Virtbus.Platform;

namespace Virtbus.Memory.Dma;

/// <summary>
/// The door by which one requester (a PCI function, or one PASID of it) reaches memory. Hardware holds it and does all its DMA through it;
/// what it reaches is decided by the owner of its group. Safe from any thread; look-ups take no lock and allocate nothing.
/// </summary>
/// <remarks>
/// Aligned words of 1, 2, 4 and 8 bytes are read and written as one access each, in the order of the calls; so indexes that the other side
/// polls go through <see cref="TryRead"/> and <see cref="TryWrite"/> like the rest.
/// </remarks>
public sealed class DmaPort
{
    /// <summary>The highest PASID.</summary>
    public const uint MaxPasid = (1 << 20) - 1;

    // The function's own port; itself when it is one.
    private readonly DmaPort _function;
    private readonly Lock _lock = new();
    private Dictionary<uint, DmaPort>? _pasids;
    private IoAddressSpace? _space;
    private DirtyLog? _log;
    private Action<DmaChange>? _changed;
    private bool _isBusMaster;
    private int _hint;
    private long _faults;
    private DmaFault? _lastFault;

    /// <summary>Makes the port of a function and puts it into a group.</summary>
    /// <param name="name">The requester's name for faults and logs, for example 0000:01:00.0.</param>
    /// <param name="group">The group, whose owner decides for all its ports.</param>
    public DmaPort(string name, IommuGroup group)
    {
        Name = name;
        Group = group;
        _function = this;
        group.Add(this);
    }

    private DmaPort(DmaPort function, uint pasid)
    {
        Name = $"{function.Name} PASID {pasid}";
        Group = function.Group;
        Pasid = pasid;
        _function = function;
    }

    /// <summary>The requester's name.</summary>
    public string Name { get; }

    /// <summary>The group.</summary>
    public IommuGroup Group { get; }

    /// <summary>The PASID that marks this port's requests; null for requests without one.</summary>
    public uint? Pasid { get; }

    /// <summary>
    /// Whether the function may do DMA at all (the command register's Bus Master Enable). Off at first; one for the function and all its
    /// PASIDs. Once it is set to off, no access is under way. A change calls the handlers of <see cref="SetChangeCallback"/>.
    /// </summary>
    public bool IsBusMaster
    {
        get => Volatile.Read(ref _function._isBusMaster);
        set
        {
            if (Interlocked.Exchange(ref _function._isBusMaster, value) == value)
                return;
            if (!value)
                AccessSlot.Drain(0);
            _function.NotifyAll(DmaChange.Everything);
        }
    }

    /// <summary>What the port reaches now; null when nothing is attached.</summary>
    public IoAddressSpace? AddressSpace => Volatile.Read(ref _space);

    /// <summary>Accesses that faulted since the port was made; for a function's port, those of its PASIDs too.</summary>
    public long Faults => Interlocked.Read(ref _faults);

    /// <summary>The last one of them, or null.</summary>
    public DmaFault? LastFault
    {
        get
        {
            lock (_lock)
                return _lastFault;
        }
    }

    /// <summary>The port for requests of this function with a PASID; the same object at every call.</summary>
    /// <param name="pasid">1 to <see cref="MaxPasid"/>.</param>
    /// <exception cref="ArgumentOutOfRangeException">It is 0 or above.</exception>
    public DmaPort ForPasid(uint pasid)
    {
        ArgumentOutOfRangeException.ThrowIfZero(pasid);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(pasid, MaxPasid);
        lock (_function._lock)
        {
            var pasids = _function._pasids ??= [];
            if (!pasids.TryGetValue(pasid, out var port))
                pasids.Add(pasid, port = new DmaPort(_function, pasid));
            return port;
        }
    }

    /// <summary>Reads memory, over the borders of ranges. A fault is counted and reported.</summary>
    /// <param name="address">First byte.</param>
    /// <param name="destination">Where to.</param>
    /// <returns>False when a part could not be read; the destination then holds the part before it.</returns>
    public bool TryRead(Iova address, Span<byte> destination) => Read(address, destination, out _) == Errno.None;

    /// <summary>As <see cref="TryRead"/>, with the cause.</summary>
    /// <param name="address">First byte.</param>
    /// <param name="destination">Where to.</param>
    /// <param name="isPeers">Whether it was mapped, and the peer whose memory it is refused it.</param>
    /// <returns>
    /// None; EPERM: no bus master; ENODEV: nothing is attached; EFAULT; EACCES; EAGAIN: a peer's memory that is being unmapped; what else a peer answers.
    /// </returns>
    internal Errno Read(Iova address, Span<byte> destination, out bool isPeers)
    {
        isPeers = false;
        var slot = AccessSlot.Mine;
        var done = 0;
        while (done < destination.Length)
        {
            var error = Enter(slot, out var space);
            if (error != Errno.None)
                return Refuse(address, done, DmaAccess.Read, DmaFault.Because(error));
            // Nothing in a section throws, so it needs no try.
            error = space!.Read(address.Value, destination, ref done, ref _hint, out var remote, out var count);
            slot.Leave();
            if (error != Errno.None)
                return Refuse(address, done, DmaAccess.Read, DmaFault.Because(error));
            if (remote is null)
                continue;
            if (!remote.TryRead(new Iova(address.Value + (uint)done), destination.Slice(done, count), out var fault))
            {
                isPeers = true;
                return Refuse(address, done, DmaAccess.Read, fault);
            }

            done += count;
        }

        return Errno.None;
    }

    /// <summary>Writes memory, over the borders of ranges, and marks it in the dirty logs. A fault is counted and reported.</summary>
    /// <param name="address">First byte.</param>
    /// <param name="source">Where from.</param>
    /// <returns>False when a part could not be written; the part before it is.</returns>
    public bool TryWrite(Iova address, ReadOnlySpan<byte> source) => Write(address, source, out _) == Errno.None;

    /// <summary>As <see cref="TryWrite"/>, with the cause.</summary>
    /// <param name="address">First byte.</param>
    /// <param name="source">Where from.</param>
    /// <param name="isPeers">As for a read.</param>
    /// <returns>As for a read.</returns>
    internal Errno Write(Iova address, ReadOnlySpan<byte> source, out bool isPeers)
    {
        isPeers = false;
        var slot = AccessSlot.Mine;
        var done = 0;
        while (done < source.Length)
        {
            var error = Enter(slot, out var space);
            if (error != Errno.None)
                return Refuse(address, done, DmaAccess.Write, DmaFault.Because(error));
            error = space!.Write(address.Value, source, ref done, ref _hint, this, out var remote, out var count);
            slot.Leave();
            if (error != Errno.None)
                return Refuse(address, done, DmaAccess.Write, DmaFault.Because(error));
            if (remote is null)
                continue;
            var at = new Iova(address.Value + (uint)done);
            if (!remote.TryWrite(at, source.Slice(done, count), out var fault))
            {
                isPeers = true;
                return Refuse(address, done, DmaAccess.Write, fault);
            }

            Mark(slot, space, at, (uint)count);
            done += count;
        }

        return Errno.None;
    }

    /// <summary>
    /// Begins a short stay in which host memory is looked up, for a device that reads and writes it by itself. It then tells
    /// <see cref="MarkWritten"/> what it wrote and <see cref="ReportFault"/> what it did not find.
    /// </summary>
    /// <param name="section">The stay, to be ended by its <see cref="DmaSection.Leave"/>.</param>
    /// <returns>False when the port reaches nothing now.</returns>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public bool TryEnter(out DmaSection section)
    {
        var slot = AccessSlot.Mine;
        if (Enter(slot, out var space) != Errno.None)
        {
            section = default;
            return false;
        }

        section = new DmaSection(space!, slot);
        return true;
    }

    /// <summary>
    /// Whether writes are logged, so that <see cref="MarkWritten"/> has something to do. Who asks it after a write needs no fence: the start of a log is
    /// one for all threads, so that a write which did not see it is in memory when the start returns.
    /// </summary>
    public bool IsLogged => Volatile.Read(ref _function._log) is not null || Volatile.Read(ref _space) is { IsLogged: true };

    /// <summary>Marks in the logs what the device wrote by itself. Called after the writes.</summary>
    /// <param name="address">First byte.</param>
    /// <param name="length">Bytes.</param>
    public void MarkWritten(Iova address, ulong length)
    {
        if (Volatile.Read(ref _space) is { } space)
            Mark(AccessSlot.Mine, space, address, length);
    }

    /// <summary>Counts and reports an access that the device tried by itself and that did not go through.</summary>
    /// <param name="address">First byte that could not be reached.</param>
    /// <param name="access">What was tried.</param>
    public void ReportFault(Iova address, DmaAccess access)
    {
        var error = !IsBusMaster ? Errno.EPERM : Volatile.Read(ref _space) is null ? Errno.ENODEV : Errno.EFAULT;
        Refuse(address, 0, access, DmaFault.Because(error));
    }

    /// <summary>Starts to log the pages that this function, with all its PASIDs, writes.</summary>
    /// <param name="log">The log; one at a time.</param>
    /// <param name="fault">EBUSY: a log is attached already.</param>
    /// <returns>Whether writes from here on are logged.</returns>
    public bool TryStartLog(DirtyLog log, out Fault fault)
    {
        if (Interlocked.CompareExchange(ref _function._log, log, null) is not null)
        {
            fault = new Fault(Errno.EBUSY, "the writes of the function are logged already; stop that log first");
            return false;
        }

        AccessSlot.WaitForWrites(0);
        fault = Fault.None;
        return true;
    }

    /// <summary>Ends logging; after the return nothing more is marked. Without effect when there is no log.</summary>
    public void StopLog()
    {
        if (Interlocked.Exchange(ref _function._log, null) is not null)
            AccessSlot.Drain(0);
    }

    /// <summary>
    /// Called after the attached address space, a mapping of it or <see cref="IsBusMaster"/> changed, on the thread that changed it; for
    /// devices that look host memory up. The change completes when the call returns, so memory that went is not used any more by then. Changes that
    /// several threads make at once call it at once; each call comes after its change.
    /// </summary>
    /// <param name="changed">The handler; null takes it off.</param>
    public void SetChangeCallback(Action<DmaChange>? changed) => Volatile.Write(ref _changed, changed);

    /// <summary>A picture of what the port reaches now, empty when it reaches nothing; one reference belongs to the caller.</summary>
    /// <remarks>
    /// A peer's memory is not in it. Who uses it sets a handler with <see cref="SetChangeCallback"/> first, and tells
    /// <see cref="MarkWritten"/> what it wrote and <see cref="ReportFault"/> what it did not find.
    /// </remarks>
    public IoMap Snapshot()
    {
        var space = IsBusMaster ? Volatile.Read(ref _space) : null;
        return space is null ? IoMap.CreateEmpty() : space.SnapshotOrEmpty();
    }

    /// <summary>Takes a function's port out of its group, for a function that is gone: it reaches nothing any more, for good.</summary>
    public void LeaveGroup() => Group.Remove(_function);

    /// <summary>The ports of the PASIDs that were asked for.</summary>
    internal DmaPort[] PasidPorts()
    {
        lock (_lock)
            return _pasids is null ? [] : [.. _pasids.Values];
    }

    /// <summary>
    /// Lets the port reach another space; under the group's lock. The caller drains the answer, notifies, and only then detaches the port from the
    /// answer: what the device still has in work uses memory of that space, and an unmap there waits for it until it has let go.
    /// </summary>
    /// <returns>Whether that is a change, and what it reached before.</returns>
    internal bool Exchange(IoAddressSpace? space, out IoAddressSpace? old)
    {
        old = _space;
        if (ReferenceEquals(old, space))
            return false;
        Volatile.Write(ref _space, space);
        space?.Attach(this);
        return true;
    }

    /// <summary>Whether this is a function's port, or one of its PASIDs.</summary>
    /// <param name="function">A function's port.</param>
    public bool IsOf(DmaPort function) => ReferenceEquals(_function, function);

    internal void Notify(in DmaChange change) => Volatile.Read(ref _changed)?.Invoke(change);

    /// <summary>Tells this port and those of its PASIDs.</summary>
    internal void NotifyAll(in DmaChange change)
    {
        Notify(change);
        foreach (var port in PasidPorts())
            port.Notify(change);
    }

    /// <summary>Marks in the function's log what was written; inside a section.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void MarkLog(Iova address, ulong length) => Volatile.Read(ref _function._log)?.Mark(address, length);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private Errno Enter(AccessSlot slot, out IoAddressSpace? space)
    {
        while (true)
        {
            space = Volatile.Read(ref _space);
            if (!Volatile.Read(ref _function._isBusMaster))
                return Errno.EPERM;
            if (space is null)
                return Errno.ENODEV;
            slot.Enter(space.Number);
            // Now nobody takes the space away unseen; but it may have been gone before the mark was there.
            if (ReferenceEquals(Volatile.Read(ref _space), space) && Volatile.Read(ref _function._isBusMaster))
                return Errno.None;
            slot.Leave();
        }
    }

    private void Mark(AccessSlot slot, IoAddressSpace space, Iova address, ulong length)
    {
        slot.Enter(space.Number);
        MarkLog(address, length);
        space.MarkLog(address, length);
        slot.Leave();
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private Errno Refuse(Iova address, int done, DmaAccess access, Fault fault)
    {
        var what = new DmaFault(this, new Iova(address.Value + (uint)done), access, fault);
        Count(what);
        if (!ReferenceEquals(_function, this))
            _function.Count(what);
        Group.Report(what);
        return fault.Errno == Errno.None ? Errno.EIO : fault.Errno;
    }

    private void Count(in DmaFault fault)
    {
        Interlocked.Increment(ref _faults);
        lock (_lock)
            _lastFault = fault;
    }
}
