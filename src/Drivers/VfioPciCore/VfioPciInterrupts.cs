using Virtbus.Buses.Pci;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Drivers.VfioPci;

/// <summary>
/// The interrupts of an open function: vectors of the bus behind, the user's eventfds before. Set up by one thread at a time; interrupts, the
/// unmask eventfd and requests come from others.
/// </summary>
internal sealed class VfioPciInterrupts(PciDevice device)
{
    // Of 2,048 vectors, the most that there can be, whatever a function says of itself from one read to the next.
    private const int MaxTable = (PciMsix.PCI_MSIX_FLAGS_QSIZE + 1) * PciMsix.PCI_MSIX_ENTRY_SIZE;

    private readonly Lock _requestLock = new();
    private IReadOnlyList<PciVector> _vectors = [];
    private EventFd?[] _signals = [];
    // Of messages: what a vector signals, whichever eventfd the user has there at the moment.
    private SignalLine?[] _lines = [];
    private EventFd? _error;
    private EventFd? _request;
    private UnmaskWatch? _unmask;
    // Where the user's masks of the capabilities are; null while nobody has the function open.
    private VfioPciImage? _image;
    // The MSI-X table as the user wrote it: its masks count, the messages are notes. Null while it wrote nothing.
    private byte[]? _table;
    private volatile bool _isLineMasked;
    private volatile bool _isLineDisabled;

    /// <summary>Which way the user has interrupts enabled.</summary>
    public PciInterruptKinds Kind { get; private set; }

    /// <summary>How many vectors are set up.</summary>
    public int Count => _vectors.Count;

    /// <summary>Whether the user wrote the MSI-X table.</summary>
    public bool HasTable => _table is not null;

    public VfioIrqInfo GetInfo(uint index) => index switch
    {
        VfioPciIrq.VFIO_PCI_INTX_IRQ_INDEX => new(VfioIrqFlags.EventFd | VfioIrqFlags.Maskable | VfioIrqFlags.AutoMasked, HasLine ? 1u : 0),
        VfioPciIrq.VFIO_PCI_MSI_IRQ_INDEX => new(VfioIrqFlags.EventFd | VfioIrqFlags.NoResize, MsiVectors),
        VfioPciIrq.VFIO_PCI_MSIX_IRQ_INDEX => new(VfioIrqFlags.EventFd, MsixVectors),
        VfioPciIrq.VFIO_PCI_ERR_IRQ_INDEX => new(VfioIrqFlags.EventFd | VfioIrqFlags.NoResize, device.FindCapability(PciCapabilityId.PCI_CAP_ID_EXP) != 0 ? 1u : 0),
        VfioPciIrq.VFIO_PCI_REQ_IRQ_INDEX => new(VfioIrqFlags.EventFd | VfioIrqFlags.NoResize, 1),
        _ => default,
    };

    public bool HasLine
    {
        get
        {
            Span<byte> pin = stackalloc byte[1];
            device.ReadConfig(PciHeader.PCI_INTERRUPT_PIN, pin);
            return device.PhysicalFunction is null && pin[0] is > 0 and <= 4;
        }
    }

    public bool TrySet(in VfioIrqSet set, out Fault fault)
    {
        try
        {
            return set.Index switch
            {
                VfioPciIrq.VFIO_PCI_INTX_IRQ_INDEX => TrySetLine(set, out fault),
                VfioPciIrq.VFIO_PCI_MSI_IRQ_INDEX => TrySetMessages(set, PciInterruptKinds.Msi, MsiVectors, out fault),
                VfioPciIrq.VFIO_PCI_MSIX_IRQ_INDEX => TrySetMessages(set, PciInterruptKinds.MsiX, MsixVectors, out fault),
                VfioPciIrq.VFIO_PCI_ERR_IRQ_INDEX => TrySetSingle(set, ref _error, out fault),
                VfioPciIrq.VFIO_PCI_REQ_IRQ_INDEX => TrySetSingle(set, ref _request, out fault),
                _ => Refuse("there is no interrupt index of that number", out fault),
            };
        }
        catch (VirtbusException e)
        {
            fault = new Fault(e.Errno, e.Message);
            return false;
        }
    }

    /// <summary>Somebody opened the function.</summary>
    /// <param name="image">Where the masks are that the user writes into config space.</param>
    public void Open(VfioPciImage image) => _image = image;

    /// <summary>Disables everything and lets go of the user's eventfds; nothing is signalled after the return.</summary>
    public void Disable()
    {
        DisableVectors();
        _isLineDisabled = false;
        _image = null;
        _table = null;
        lock (_requestLock)
        {
            _error?.Dispose();
            _request?.Dispose();
            _error = _request = null;
        }
    }

    /// <summary>Tells the user that the driver wants the function back.</summary>
    /// <returns>False when the user did not ask to be told.</returns>
    public bool SignalRequest()
    {
        lock (_requestLock)
        {
            _request?.Signal();
            return _request is not null;
        }
    }

    /// <summary>Tells the user that the function is in an error.</summary>
    public bool SignalError()
    {
        lock (_requestLock)
        {
            _error?.Signal();
            return _error is not null;
        }
    }

    /// <summary>Interrupt Disable of the command register, as the user wrote it.</summary>
    public void SetLineDisabled(bool disabled)
    {
        if (_isLineDisabled == disabled)
            return;
        _isLineDisabled = disabled;
        if (Kind != PciInterruptKinds.INTx)
            return;
        if (disabled)
            _vectors[0].Mask();
        else if (!_isLineMasked)
            _vectors[0].Unmask();
    }

    /// <summary>The user wrote mask bits into config space, those of MSI or Function Mask of MSI-X: what comes while masked is pending.</summary>
    public void ApplyMasks()
    {
        if (Kind is not (PciInterruptKinds.Msi or PciInterruptKinds.MsiX))
            return;
        using var decode = new DecodeScope(device);
        for (var i = 0; i < _vectors.Count; i++)
            ApplyMask(i);
    }

    /// <summary>Reads the user's MSI-X table.</summary>
    /// <param name="offset">First byte of the table.</param>
    /// <param name="destination">Where to.</param>
    public void ReadTable(int offset, Span<byte> destination)
    {
        if (_table is { } table)
            table.AsSpan(offset, destination.Length).CopyTo(destination);
        else
            destination.Clear();
    }

    /// <summary>Writes the user's MSI-X table. A vector whose mask bit is set is pending when it comes.</summary>
    /// <param name="offset">First byte of the table; the bytes lie in one entry.</param>
    /// <param name="source">Where from.</param>
    public void WriteTable(int offset, ReadOnlySpan<byte> source)
    {
        source.CopyTo((_table ??= new byte[MaxTable]).AsSpan(offset));
        var vector = offset / PciMsix.PCI_MSIX_ENTRY_SIZE;
        if (Kind == PciInterruptKinds.MsiX && vector < _vectors.Count)
            ApplyMask(vector);
    }

    /// <summary>The function was reset, and its masks in config space are open: nothing is masked by its user any more, as in its registers.</summary>
    public void OpenMasks()
    {
        _table = null;
        ApplyMasks();
    }

    private uint MsiVectors =>
        device.FindCapability(PciCapabilityId.PCI_CAP_ID_MSI) is > 0 and var at
            ? 1u << Math.Min((device.ReadConfig16(at + PciMsi.PCI_MSI_FLAGS) & PciMsi.PCI_MSI_FLAGS_QMASK) >> 1, 5)
            : 0;

    private uint MsixVectors => (uint)(PciMsixPlace.Find(device)?.Vectors ?? 0);

    private bool TrySetLine(in VfioIrqSet set, out Fault fault)
    {
        fault = Fault.None;
        var eventFd = set.EventFds.Length > 0 ? set.EventFds[0] : null;
        if (set.Flags.HasFlag(VfioIrqSetFlags.ActionTrigger) && set.Flags.HasFlag(VfioIrqSetFlags.DataEventFd))
            return TryEnableLine(eventFd, out fault);
        if (set.Count == 0)
        {
            if (Kind == PciInterruptKinds.INTx)
                DisableVectors();
            return true;
        }
        if (Kind != PciInterruptKinds.INTx)
            return Refuse("the line is not enabled", out fault);
        var isWanted = !set.Flags.HasFlag(VfioIrqSetFlags.DataBool) || set.Bools[0] != 0;
        if (set.Flags.HasFlag(VfioIrqSetFlags.DataEventFd))
        {
            if (set.Flags.HasFlag(VfioIrqSetFlags.ActionMask))
                return Refuse("a line is not masked by an eventfd", out fault);
            var watch = eventFd is null ? null : new UnmaskWatch(eventFd.Duplicate(), device.Name, UnmaskLine);
            _unmask?.Dispose();
            _unmask = watch;
        }
        else if (isWanted && set.Flags.HasFlag(VfioIrqSetFlags.ActionMask))
        {
            _vectors[0].Mask();
            _isLineMasked = true;
        }
        else if (isWanted && set.Flags.HasFlag(VfioIrqSetFlags.ActionUnmask))
        {
            UnmaskLine();
        }
        else if (isWanted)
        {
            _signals[0]?.Signal();
        }
        return true;
    }

    private bool TryEnableLine(EventFd? eventFd, out Fault fault)
    {
        fault = Fault.None;
        if (eventFd is null)
        {
            if (Kind == PciInterruptKinds.INTx)
                DisableVectors();
            return true;
        }
        if (Kind is not (PciInterruptKinds.None or PciInterruptKinds.INTx))
            return Refuse("messages are enabled; they must be disabled before the line is", out fault);
        var signal = eventFd.Duplicate();
        try
        {
            if (Kind == PciInterruptKinds.None)
                Enable(PciInterruptKinds.INTx, 1, 1);
        }
        catch
        {
            signal.Dispose();
            throw;
        }
        if (_isLineDisabled)
            _vectors[0].Mask();
        var vector = _vectors[0];
        vector.SetHandler(() =>
        {
            // Level triggered: masked until the user has looked and unmasks. The mark comes before the signal, so that no unmask misses it.
            vector.Mask();
            _isLineMasked = true;
            signal.Signal();
        });
        _signals[0]?.Dispose();
        _signals[0] = signal;
        return true;
    }

    private void UnmaskLine()
    {
        _isLineMasked = false;
        var vectors = _vectors;
        // Still asserted, it fires again at once.
        if (!_isLineDisabled && vectors.Count > 0)
            vectors[0].Unmask();
    }

    private bool TrySetMessages(in VfioIrqSet set, PciInterruptKinds kind, uint available, out Fault fault)
    {
        fault = Fault.None;
        using var decode = new DecodeScope(device);
        if (set.Count == 0)
        {
            if (Kind == kind)
                DisableVectors();
            return true;
        }
        var end = (int)(set.Start + set.Count);
        if (set.Flags.HasFlag(VfioIrqSetFlags.DataEventFd))
        {
            if (Kind != PciInterruptKinds.None && Kind != kind)
                return Refuse("another way to interrupt is enabled; it must be disabled first", out fault);
            // A user grows its set vector by vector. MSI-X has all of them from the start; of MSI a function uses as many as it is given, so
            // the set begins with what the user has.
            // What may fail comes first: a request that is refused leaves the signals that were there.
            var signals = Duplicate(set.EventFds);
            try
            {
                if (Kind == PciInterruptKinds.None)
                    Enable(kind, kind == PciInterruptKinds.MsiX ? 1 : end, kind == PciInterruptKinds.MsiX ? (int)available : end);
                else if (end > _vectors.Count)
                    Grow(end);
            }
            catch
            {
                Dispose(signals);
                throw;
            }
            for (var i = 0; i < (int)set.Count; i++)
                SetSignal((int)set.Start + i, signals.Length == 0 ? null : signals[i]);
            return true;
        }
        if (Kind != kind || end > _vectors.Count)
            return Refuse("the vectors are not enabled", out fault);
        for (var i = 0; i < (int)set.Count; i++)
        {
            if (!set.Flags.HasFlag(VfioIrqSetFlags.DataBool) || set.Bools[i] != 0)
                _signals[(int)set.Start + i]?.Signal();
        }
        return true;
    }

    private bool TrySetSingle(in VfioIrqSet set, ref EventFd? signal, out Fault fault)
    {
        fault = Fault.None;
        var isEventFd = set.Flags.HasFlag(VfioIrqSetFlags.DataEventFd);
        var next = isEventFd && set.EventFds.Length > 0 ? set.EventFds[0]?.Duplicate() : null;
        lock (_requestLock)
        {
            if (isEventFd || set.Count == 0)
            {
                signal?.Dispose();
                signal = next;
            }
            else if (!set.Flags.HasFlag(VfioIrqSetFlags.DataBool) || set.Bools[0] != 0)
            {
                signal?.Signal();
            }
        }
        return true;
    }

    private void Enable(PciInterruptKinds kind, int min, int max)
    {
        _vectors = device.AllocateVectors(min, max, kind);
        _signals = new EventFd?[_vectors.Count];
        _lines = new SignalLine?[_vectors.Count];
        _isLineMasked = false;
        Kind = kind;
        ApplyMasks();
    }

    // The kernel's users cannot do that (NORESIZE); those of vfio-user do, when their eventfds do not fit into one message.
    private void Grow(int count)
    {
        var signals = _signals;
        var before = _vectors.Count;
        device.FreeVectors();
        Kind = PciInterruptKinds.None;
        _vectors = [];
        _signals = [];
        _lines = [];
        try
        {
            EnableAgain(count, signals);
        }
        catch (VirtbusException)
        {
            // As many as there were can be had again.
            try
            {
                EnableAgain(before, signals);
            }
            catch (VirtbusException)
            {
                Dispose(signals);
            }
            throw;
        }
    }

    private void EnableAgain(int count, EventFd?[] signals)
    {
        Enable(PciInterruptKinds.Msi, count, count);
        for (var i = 0; i < signals.Length; i++)
            SetSignal(i, signals[i]);
    }

    private static EventFd?[] Duplicate(ReadOnlySpan<EventFd?> eventFds)
    {
        var copies = new EventFd?[eventFds.Length];
        try
        {
            for (var i = 0; i < copies.Length; i++)
                copies[i] = eventFds[i]?.Duplicate();
            return copies;
        }
        catch
        {
            Dispose(copies);
            throw;
        }
    }

    private static void Dispose(EventFd?[] signals)
    {
        foreach (var signal in signals)
            signal?.Dispose();
    }

    // The signal is this object's from here on.
    private void SetSignal(int index, EventFd? signal)
    {
        ref var line = ref _lines[index];
        if (signal is null)
        {
            _vectors[index].SetHandler(null);
            line = null;
        }
        else if (line is null)
        {
            line = new SignalLine();
            line.Set(signal);
            _vectors[index].SetSignal(line);
        }
        else
        {
            line.Set(signal);
        }
        // Whichever way it was, nobody signals the one before any more.
        _signals[index]?.Dispose();
        _signals[index] = signal;
    }

    private void DisableVectors()
    {
        _unmask?.Dispose();
        _unmask = null;
        if (Kind == PciInterruptKinds.None)
            return;
        using (new DecodeScope(device))
            device.FreeVectors();
        Kind = PciInterruptKinds.None;
        _vectors = [];
        foreach (var signal in _signals)
            signal?.Dispose();
        _signals = [];
        _lines = [];
        _isLineMasked = false;
    }

    private void ApplyMask(int vector)
    {
        const int control = PciMsix.PCI_MSIX_ENTRY_VECTOR_CTRL;
        var masked = Kind == PciInterruptKinds.Msi
            ? ((_image?.UserMsiMask ?? 0) >> vector & 1) != 0
            : _image is { IsMsixMaskedByUser: true } || (_table is { } table && (table[(vector * PciMsix.PCI_MSIX_ENTRY_SIZE) + control] & PciMsix.PCI_MSIX_ENTRY_CTRL_MASKBIT) != 0);
        if (masked)
            _vectors[vector].Mask();
        else
            _vectors[vector].Unmask();
    }

    private static bool Refuse(string why, out Fault fault)
    {
        fault = new Fault(Errno.EINVAL, why);
        return false;
    }
}
