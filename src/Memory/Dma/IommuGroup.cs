using Virtbus.Platform;

namespace Virtbus.Memory.Dma;

/// <summary>
/// The functions that cannot be told apart in their DMA, and therefore have one owner: nobody, the host's drivers, or one user. Claims of
/// drivers count; a claim against another owner is EBUSY. Safe from any thread.
/// </summary>
/// <remarks>
/// Each time that drivers take the ownership they get a new address space of the host. So what drivers mapped before, and did not free, is
/// out of reach, whoever comes next. A driver that does no DMA claims nothing, and is held to it: its function faults, and it gets no memory.
/// </remarks>
public sealed class IommuGroup
{
    // Address 0 is never valid, nor what is near it; the messages of x86 go to 0xfeexxxxx.
    private static readonly IoAddressSpaceOptions HostOptions = new() { Lowest = new Iova(0x10000), Highest = new Iova((1UL << 48) - 1) };
    private static readonly IovaRange Messages = new(new Iova(0xFEE00000), 0x100000);
    private const ulong MaxAlignment = 1 << 21;

    private readonly Lock _lock = new();
    private readonly List<string> _drivers = [];
    private DmaPort[] _ports = [];
    private Observer[] _observers = [];
    private IoAddressSpace? _host;
    private object? _user;
    private string? _userName;
    private int _userClaims;

    /// <summary>Makes a group without ports.</summary>
    /// <param name="number">Its number in the fabric.</param>
    public IommuGroup(int number) => Number = number;

    /// <summary>Its number in the fabric.</summary>
    public int Number { get; }

    /// <summary>The functions' ports, without those of PASIDs.</summary>
    public IReadOnlyList<DmaPort> Ports => Volatile.Read(ref _ports);

    /// <summary>Who owns the DMA of the group.</summary>
    public DmaOwnerKind OwnerKind
    {
        get
        {
            lock (_lock)
                return Kind;
        }
    }

    /// <summary>The owner's name, or the names of all drivers that own it together; null when there is none.</summary>
    public string? OwnerName
    {
        get
        {
            lock (_lock)
                return Name;
        }
    }

    /// <summary>
    /// Whether memory that drivers allocate from now on keeps its descriptor (<see cref="IoRange.File"/>), so that hardware in another
    /// process can map it. Off at first: a descriptor each is much for hardware in this one.
    /// </summary>
    public bool KeepsFiles { get; set; }

    private DmaOwnerKind Kind => _user is not null ? DmaOwnerKind.User : _drivers.Count > 0 ? DmaOwnerKind.Driver : DmaOwnerKind.None;

    private string? Name => _userName ?? (_drivers.Count > 0 ? string.Join(", ", _drivers.Distinct()) : null);

    /// <summary>Watches the group; dispose the answer to end that.</summary>
    /// <param name="faulted">Called at each fault of any port, on the thread of the function that did DMA; it must not block.</param>
    /// <param name="ownerChanged">Called after the owner changed, not under a lock; <see cref="OwnerKind"/> says what is true by then.</param>
    public IDisposable Observe(Action<DmaFault>? faulted, Action? ownerChanged)
    {
        var observer = new Observer(this, faulted, ownerChanged);
        lock (_lock)
            Volatile.Write(ref _observers, [.. _observers, observer]);
        return observer;
    }

    /// <summary>A driver of the host takes a share in the ownership. To be given back by <see cref="ReleaseDriver"/>.</summary>
    /// <param name="driver">The driver's name.</param>
    /// <param name="fault">EBUSY: a user owns the group.</param>
    /// <returns>Whether it has the share.</returns>
    public bool TryClaimForDriver(string driver, out Fault fault)
    {
        bool changed;
        lock (_lock)
        {
            if (_user is not null)
            {
                fault = new Fault(Errno.EBUSY, $"the DMA of IOMMU group {Number} belongs to user '{_userName}', who has to close it first");
                return false;
            }

            changed = !_drivers.Contains(driver);
            _drivers.Add(driver);
            if (_drivers.Count == 1)
            {
                _host = new IoAddressSpace(HostOptions);
                foreach (var port in _ports)
                    port.Exchange(_host, out _);
            }
        }

        if (changed)
        {
            foreach (var port in Ports)
                port.Notify(DmaChange.Everything);
            NotifyOwner();
        }

        fault = Fault.None;
        return true;
    }

    /// <summary>Gives a driver's share back; with the last one the ports, and those of PASIDs, reach nothing any more.</summary>
    /// <param name="driver">Its name as claimed; null for that of any share.</param>
    /// <exception cref="InvalidOperationException">There is no such share.</exception>
    public void ReleaseDriver(string? driver = null)
    {
        IReadOnlyList<Detached> detached = [];
        bool changed;
        lock (_lock)
        {
            var at = driver is null ? _drivers.Count - 1 : _drivers.LastIndexOf(driver);
            if (at < 0)
                throw new InvalidOperationException($"The DMA of IOMMU group {Number} was given back more often than it was claimed.");
            var before = Name;
            _drivers.RemoveAt(at);
            changed = Name != before;
            if (_drivers.Count == 0)
            {
                detached = Detach(_ports);
                _host = null;
            }
        }

        LetGo(detached);
        if (changed)
            NotifyOwner();
    }

    /// <summary>
    /// One user takes the ownership. The ports reach nothing until the user attaches address spaces. A user may claim again, and then
    /// releases as often.
    /// </summary>
    /// <param name="user">The user, told apart by reference.</param>
    /// <param name="name">The user's name for messages.</param>
    /// <param name="fault">EBUSY: drivers or another user own the group.</param>
    /// <returns>Whether the user has it.</returns>
    public bool TryClaimForUser(object user, string name, out Fault fault)
    {
        fault = Fault.None;
        lock (_lock)
        {
            if (_user is not null && !ReferenceEquals(_user, user))
                fault = new Fault(Errno.EBUSY, $"the DMA of IOMMU group {Number} belongs to user '{_userName}', who has to close it first");
            else if (_drivers.Count > 0)
                fault = new Fault(Errno.EBUSY, $"the DMA of IOMMU group {Number} belongs to the driver {Name}; unbind it first");
            if (fault.Errno != Errno.None)
                return false;
            _user = user;
            _userName = name;
            if (++_userClaims > 1)
                return true;
        }

        NotifyOwner();
        return true;
    }

    /// <summary>
    /// Gives the ownership back: with the last claim everything is detached, and no access through the ports is under way after the return.
    /// </summary>
    /// <param name="user">Who claimed it; another one's release has no effect.</param>
    /// <param name="port">The function whose claim it was: it is detached, with its PASIDs, though others of the group stay the user's.</param>
    public void ReleaseUser(object user, DmaPort? port = null)
    {
        IReadOnlyList<Detached> detached;
        bool changed;
        lock (_lock)
        {
            if (!ReferenceEquals(_user, user))
                return;
            changed = --_userClaims == 0;
            if (changed)
            {
                _user = null;
                _userName = null;
            }

            detached = changed ? Detach(_ports) : port is null ? [] : Detach([port]);
        }

        LetGo(detached);
        if (changed)
            NotifyOwner();
    }

    /// <summary>
    /// The user of the group lets a port reach an address space instead of what it reached before. No access through the old one is under
    /// way after the return.
    /// </summary>
    /// <param name="user">Who claimed the group.</param>
    /// <param name="port">A port of the group, or one of its PASIDs.</param>
    /// <param name="space">The address space; null detaches.</param>
    /// <param name="fault">EPERM: not the owner; EINVAL: not a port of the group.</param>
    /// <returns>Whether the port reaches it.</returns>
    public bool TryAttach(object user, DmaPort port, IoAddressSpace? space, out Fault fault)
    {
        IoAddressSpace? old;
        lock (_lock)
        {
            if (!ReferenceEquals(_user, user))
            {
                fault = new Fault(Errno.EPERM, $"only the owner of the DMA of IOMMU group {Number} attaches address spaces");
                return false;
            }

            if (!TryAttachLocked(port, space, out var changed, out old, out fault) || !changed)
                return fault.Errno == Errno.None;
        }

        LetGo([new Detached(port, old)]);
        return true;
    }

    /// <summary>
    /// A driver of the host lets one PASID of its function reach an address space of a user (vDPA parts do that). No access through the old
    /// one is under way after the return.
    /// </summary>
    /// <param name="port">The port of a PASID.</param>
    /// <param name="space">The address space; null detaches.</param>
    /// <param name="fault">EPERM: the host's drivers do not own the group; EINVAL: the port is not one of a PASID.</param>
    /// <returns>Whether the port reaches it.</returns>
    public bool TryAttachPasid(DmaPort port, IoAddressSpace? space, out Fault fault)
    {
        IoAddressSpace? old;
        lock (_lock)
        {
            if (_drivers.Count == 0)
            {
                fault = new Fault(Errno.EPERM, $"no driver of the host owns the DMA of IOMMU group {Number}");
                return false;
            }

            if (port.Pasid is null)
            {
                fault = new Fault(Errno.EINVAL, "the port is not one of a PASID");
                return false;
            }

            if (!TryAttachLocked(port, space, out var changed, out old, out fault) || !changed)
                return fault.Errno == Errno.None;
        }

        LetGo([new Detached(port, old)]);
        return true;
    }

    /// <summary>Memory for a driver of the host and its function, mapped in the host's address space of the group.</summary>
    /// <param name="size">Bytes, 1 to 2^30; rounded up to pages.</param>
    /// <param name="buffer">The memory, zero filled, at an address that is aligned to the size (the next power of two, up to 2 MiB).</param>
    /// <param name="fault">EINVAL: the size; EPERM: the host's drivers do not own the group; ENOMEM; ENOSPC: no address or no map is left.</param>
    /// <returns>Whether it is there.</returns>
    public bool TryAllocate(ulong size, out DmaBuffer? buffer, out Fault fault)
    {
        buffer = null;
        if (size is 0 or > 1 << 30)
        {
            fault = new Fault(Errno.EINVAL, "DMA memory has 1 byte to 1 GiB");
            return false;
        }

        IoAddressSpace? host;
        lock (_lock)
            host = _drivers.Count > 0 ? _host : null;
        if (host is null)
        {
            fault = new Fault(Errno.EPERM, $"no driver of the host owns the DMA of IOMMU group {Number}");
            return false;
        }

        size = (size + HostOptions.Granule - 1) & ~(HostOptions.Granule - 1);
        HostMemory? memory;
        try
        {
            using var file = MemoryFile.Create("virtbus-dma", size);
            if (!HostMemory.TryMap(file, 0, size, DmaAccess.ReadWrite, out memory, out fault, KeepsFiles))
                return false;
        }
        catch (VirtbusException)
        {
            fault = new Fault(Errno.ENOMEM, "the host has no memory or no descriptor left");
            return false;
        }

        var alignment = Math.Min(System.Numerics.BitOperations.RoundUpToPowerOf2(size), MaxAlignment);
        if (!host.TryMapAnywhere(size, alignment, Messages, memory!, DmaAccess.ReadWrite, out var address, out fault))
        {
            memory!.Dispose();
            return false;
        }

        buffer = new DmaBuffer(host, address, memory!);
        return true;
    }

    internal void Add(DmaPort port)
    {
        lock (_lock)
        {
            Volatile.Write(ref _ports, [.. _ports, port]);
            port.Exchange(_host, out _);
        }
    }

    internal void Remove(DmaPort port)
    {
        DmaPort[] all = [port, .. port.PasidPorts()];
        var detached = new List<Detached>();
        lock (_lock)
        {
            Volatile.Write(ref _ports, [.. _ports.Where(other => !ReferenceEquals(other, port))]);
            foreach (var one in all)
            {
                one.Exchange(null, out var old);
                detached.Add(new Detached(one, old));
            }

            AccessSlot.Drain(0);
        }

        LetGo(detached);
    }

    internal void Report(in DmaFault fault)
    {
        foreach (var observer in Volatile.Read(ref _observers))
            observer.Faulted?.Invoke(fault);
    }

    private bool TryAttachLocked(DmaPort port, IoAddressSpace? space, out bool changed, out IoAddressSpace? old, out Fault fault)
    {
        changed = false;
        old = null;
        if (!_ports.Any(port.IsOf))
        {
            fault = new Fault(Errno.EINVAL, $"the port {port.Name} is not one of IOMMU group {Number}");
            return false;
        }

        changed = port.Exchange(space, out old);
        if (old is not null && changed)
            AccessSlot.Drain(old.Number);
        fault = Fault.None;
        return true;
    }

    // Under the lock. Answers the ports that reached something.
    private static List<Detached> Detach(ReadOnlySpan<DmaPort> ports)
    {
        var detached = new List<Detached>();
        foreach (var port in ports)
        {
            foreach (var one in (DmaPort[])[port, .. port.PasidPorts()])
            {
                if (one.Exchange(null, out var old))
                    detached.Add(new Detached(one, old));
            }
        }

        AccessSlot.Drain(0);
        return detached;
    }

    // Not under the lock. Until a device has let go, who unmaps memory of the space that it reached waits for it.
    private static void LetGo(IReadOnlyList<Detached> detached)
    {
        foreach (var (port, old) in detached)
        {
            try
            {
                port.Notify(DmaChange.Everything);
            }
            finally
            {
                old?.Detach(port);
            }
        }
    }

    private void NotifyOwner()
    {
        foreach (var observer in Volatile.Read(ref _observers))
            observer.OwnerChanged?.Invoke();
    }

    /// <summary>A port, and what it reached before.</summary>
    private readonly record struct Detached(DmaPort Port, IoAddressSpace? Old);

    private sealed class Observer(IommuGroup group, Action<DmaFault>? faulted, Action? ownerChanged) : IDisposable
    {
        internal Action<DmaFault>? Faulted { get; } = faulted;

        internal Action? OwnerChanged { get; } = ownerChanged;

        public void Dispose()
        {
            lock (group._lock)
                Volatile.Write(ref group._observers, [.. group._observers.Where(other => !ReferenceEquals(other, this))]);
        }
    }
}
