using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Pci;

/// <summary>
/// A simulated PCI function: config space by a <see cref="ConfigLayout"/>, MSI and MSI-X, the INTx line, power states, resets and its place in
/// a slot. A device model derives from it and adds registers.
/// </summary>
/// <remarks>
/// Accesses come from any thread and at once; a model locks what it shares. The hooks are called under no lock, so they may raise interrupts.
/// A thread that handles an interrupt of the function, in the call of the port, must not reset or unplug it.
/// </remarks>
public abstract partial class PciFunction : IPciFunction
{
    // Held through resets and changes of the virtual functions, never while the port is called.
    private readonly Lock _control = new();

    // Orders what is computed from config space; taken before the locks of config space, MSI and MSI-X, and never while the port is called.
    private readonly Lock _sync = new();
    private readonly UseGate _gate = new(isOpen: false);
    private readonly MsiCapability? _msiCapability;
    private readonly MsixCapability? _msixCapability;
    private readonly int _powerOffset;
    private IPciPort? _port;
    private Action? _lost;
    private volatile PciInterruptMode _mode;
    private int _lineWork;
    // Who shows it at the moment; 0 for nobody.
    private int _lineThread;
    private bool _lineShown;
    private bool _cause;
    private volatile bool _isLineWanted;
    private volatile bool _isPlugged;
    private volatile bool _isAwake = true;
    private volatile bool _isMaster;
    private volatile bool _isLost;
    private volatile bool _isFailed;

    /// <summary>Makes the function, as after power-on, in no slot.</summary>
    /// <param name="layout">Its config space's layout, shared with its like.</param>
    protected PciFunction(ConfigLayout layout)
    {
        Config = new ConfigSpace(layout);
        _msiCapability = layout.Find<MsiCapability>();
        _msixCapability = layout.Find<MsixCapability>();
        _powerOffset = layout.FindCapability(PciCapabilityId.PCI_CAP_ID_PM);
        if (_msixCapability is not null)
            MsixTable = new MsixTable(_msixCapability.Vectors, Send, FindTarget);
        if (_msiCapability is not null)
            Msi = new MsiState(_msiCapability.Vectors, _msiCapability.HasMasks, Send, _msiCapability.HasMasks ? ShowPending : null, FindTarget);
    }

    /// <inheritdoc/>
    public int ConfigSize => Config.Size;

    /// <inheritdoc/>
    public bool IsPresent => !_isLost;

    /// <inheritdoc/>
    public virtual IReadOnlyList<PciDoorbell> Doorbells => [];

    /// <inheritdoc/>
    public virtual IReadOnlyList<IPciFunction> VirtualFunctions => [];

    /// <summary>How its config space is made.</summary>
    public ConfigLayout ConfigLayout => Config.Layout;

    /// <summary>Config space.</summary>
    protected internal ConfigSpace Config { get; }

    /// <summary>The MSI-X table; null without the capability.</summary>
    protected MsixTable? MsixTable { get; }

    /// <summary>What lies behind the MSI capability; null without it.</summary>
    protected MsiState? Msi { get; }

    /// <summary>How the function interrupts now.</summary>
    protected PciInterruptMode InterruptMode => _mode;

    /// <summary>Whether the function is in D0; in D3hot it has config space only.</summary>
    protected bool IsAwake => _isAwake;

    /// <summary>Whether the function may do DMA and send messages: plugged, in D0, bus master.</summary>
    protected bool IsMaster => _isMaster && _isPlugged;

    /// <summary>
    /// Whether a bug of the model showed. Until the next reset its BARs read as all ones and swallow writes, and it does no DMA and sends no
    /// message; config space stays, since a reset is asked for there.
    /// </summary>
    protected bool IsFailed => _isFailed;

    /// <summary>Where the function's bugs are told; null while it is in no slot.</summary>
    protected FaultSource? Faults => Volatile.Read(ref _port)?.Faults;

    /// <inheritdoc/>
    public void SetLostCallback(Action? lost)
    {
        Interlocked.Exchange(ref _lost, lost);
        if (_isLost)
            Interlocked.Exchange(ref _lost, null)?.Invoke();
    }

    /// <inheritdoc/>
    public void ReadConfig(int offset, Span<byte> destination)
    {
        if (_isLost)
        {
            destination.Fill(0xFF);
            return;
        }
        try
        {
            OnConfigReading(offset, destination.Length);
        }
        catch (Exception exception)
        {
            Fail("config space", exception);
        }
        Config.Read(offset, destination);
    }

    /// <inheritdoc/>
    public void WriteConfig(int offset, ReadOnlySpan<byte> source)
    {
        if (_isLost)
            return;
        var effects = Config.Write(offset, source);
        if ((effects & ConfigEffects.Reset) != ConfigEffects.None)
            Reset(PciResetKind.FunctionLevel);
        else if ((effects & (ConfigEffects.Command | ConfigEffects.Msi | ConfigEffects.MsiX | ConfigEffects.Power)) != ConfigEffects.None)
            SyncInterrupts();
        if ((effects & ConfigEffects.Sriov) != ConfigEffects.None)
            SyncVirtualFunctions();
        try
        {
            OnConfigChanged(offset, source.Length, effects);
        }
        catch (Exception exception)
        {
            Fail("config space", exception);
        }
    }

    /// <inheritdoc/>
    public PciBar GetBar(int bar) => Config.Layout.GetBar(bar);

    /// <inheritdoc/>
    public virtual IReadOnlyList<PciBarArea> GetBarAreas(int bar) => [];

    /// <summary>The address that software gave a BAR; 0 for the BARs of a virtual function, which stand in its physical function.</summary>
    /// <param name="bar">0 to 5, or <see cref="PciBar.Rom"/>.</param>
    public virtual ulong GetBarAddress(int bar)
    {
        var header = Config.Layout.Header;
        var offset = bar == PciBar.Rom ? header.RomOffset : PciHeader.PCI_BASE_ADDRESS_0 + (4 * bar);
        return header.IsVirtualFunction ? 0 : BarAddress(GetBar(bar).Kind, offset);
    }

    /// <summary>Whether the function decodes a BAR now: it is there, its kind of decoding is enabled, and the function is in D0.</summary>
    /// <param name="bar">0 to 5, or <see cref="PciBar.Rom"/>.</param>
    public virtual bool IsDecoding(int bar)
    {
        var command = Config.Read16(PciHeader.PCI_COMMAND);
        return _isAwake && !_isLost && GetBar(bar).Kind switch
        {
            PciBarKind.Io => (command & PciCommand.PCI_COMMAND_IO) != 0,
            PciBarKind.Memory32 or PciBarKind.Memory64 => (command & PciCommand.PCI_COMMAND_MEMORY) != 0,
            PciBarKind.Rom => (command & PciCommand.PCI_COMMAND_MEMORY) != 0
                && (Config.Read32(Config.Layout.Header.RomOffset) & PciHeader.PCI_ROM_ADDRESS_ENABLE) != 0,
            _ => false,
        };
    }

    /// <inheritdoc/>
    public void ReadBar(int bar, ulong offset, Span<byte> destination)
    {
        if (_isLost || !_isAwake || _isFailed)
        {
            destination.Fill(0xFF);
            return;
        }
        while (destination.Length > 0)
        {
            var part = Part(bar, offset, destination.Length, out var start, out var length);
            var piece = destination[..length];
            if (part == BarPart.Table)
                MsixTable!.Read(start, piece);
            else if (part == BarPart.Pending)
                MsixTable!.ReadPending(start, piece);
            else if (!TryReadRegister(bar, offset, piece))
                piece.Fill(0xFF);
            offset += (ulong)length;
            destination = destination[length..];
        }
    }

    /// <inheritdoc/>
    public void WriteBar(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        if (_isLost || !_isAwake || _isFailed || bar == PciBar.Rom)
            return;
        while (source.Length > 0)
        {
            var part = Part(bar, offset, source.Length, out var start, out var length);
            if (part == BarPart.Table)
                MsixTable!.Write(start, source[..length]);
            else if (part == BarPart.Registers)
                TryWriteRegister(bar, offset, source[..length]);
            offset += (ulong)length;
            source = source[length..];
        }
    }

    /// <inheritdoc/>
    public virtual bool TryAttachDoorbell(in PciDoorbell doorbell, EventFd? signal, out Fault fault)
    {
        fault = new Fault(Errno.ENOENT, "the function has no such doorbell");
        return false;
    }

    /// <inheritdoc/>
    public void Plug(IPciPort port)
    {
        ArgumentNullException.ThrowIfNull(port);
        lock (_control)
        {
            if (_isPlugged)
                throw new InvalidOperationException("The function is in a slot already.");
            _port = port;
            _isPlugged = true;
            _gate.Open();
        }
        SyncInterrupts();
        OnPlugged(port.Dma);
    }

    /// <inheritdoc/>
    public void Unplug()
    {
        lock (_control)
        {
            if (!_isPlugged)
                return;
            _isPlugged = false;
        }
        PublishLine();
        _gate.Close();
        // With the gate closed no target is found anew.
        lock (_sync)
            LinkMessages(false);
        _port = null;
        OnUnplugged();
    }

    /// <inheritdoc/>
    public void Reset() => Reset(PciResetKind.Conventional);

    /// <summary>Ends the function: it leaves its slot and is not there any more.</summary>
    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Reads registers; the range lies inside the BAR and outside of the MSI-X table and its pending bits.</summary>
    /// <param name="bar">0 to 5, or <see cref="PciBar.Rom"/>.</param>
    /// <param name="offset">First byte in the BAR.</param>
    /// <param name="destination">Where to.</param>
    protected abstract void ReadRegister(int bar, ulong offset, Span<byte> destination);

    /// <summary>Writes registers; the range lies inside the BAR and outside of the MSI-X table and its pending bits. Never the ROM.</summary>
    /// <param name="bar">0 to 5.</param>
    /// <param name="offset">First byte in the BAR.</param>
    /// <param name="source">Where from.</param>
    protected abstract void WriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source);

    /// <summary>
    /// Sets the model back. Config space, MSI, MSI-X and the line are back already. When the call returns, nothing that was started before goes
    /// on; it may wait for the model's threads.
    /// </summary>
    /// <param name="kind">How.</param>
    protected abstract void OnReset(PciResetKind kind);

    /// <summary>Told of each write to config space, after it took effect.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="effects">What the write asked for.</param>
    protected virtual void OnConfigChanged(int offset, int length, ConfigEffects effects)
    {
    }

    /// <summary>Told of each read of config space before it is done, for a register whose value is only known then.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="length">Bytes.</param>
    protected virtual void OnConfigReading(int offset, int length)
    {
    }

    /// <summary>Told that the function is in a slot now.</summary>
    /// <param name="dma">Its way to memory there; for accesses take it by <see cref="UsePort"/>.</param>
    protected virtual void OnPlugged(DmaPort dma)
    {
    }

    /// <summary>Told that the function is out of its slot; no DMA and no interrupt is under way.</summary>
    protected virtual void OnUnplugged()
    {
    }

    /// <summary>Makes the virtual functions those that the SR-IOV capability asks for.</summary>
    private protected virtual void SyncVirtualFunctions()
    {
    }

    /// <summary>Lets the function do DMA until the answer is disposed; an unplug waits for that. Check <see cref="PciPortUse.Dma"/>.</summary>
    protected PciPortUse UsePort()
    {
        if (!_isMaster || _isFailed || !_gate.TryEnter())
            return default;
        return new PciPortUse(_gate, _port!.Dma);
    }

    /// <summary>Makes the function be gone for good: it leaves its slot, reads as all ones, and whoever asked for that is told.</summary>
    protected void Lose()
    {
        _isLost = true;
        Unplug();
        Interlocked.Exchange(ref _lost, null)?.Invoke();
    }

    /// <summary>Frees what the model holds; called once or more.</summary>
    /// <param name="disposing">Always true.</param>
    protected virtual void Dispose(bool disposing)
    {
        _isLost = true;
        Unplug();
    }

    /// <summary>The lock of resets and of changes of the virtual functions.</summary>
    private protected Lock Control => _control;

    private protected ulong BarAddress(PciBarKind kind, int offset) => kind switch
    {
        PciBarKind.Io => Config.Read32(offset) & ~3u,
        PciBarKind.Memory32 => Config.Read32(offset) & ~0xFu,
        PciBarKind.Memory64 => (Config.Read32(offset) & ~0xFu) | ((ulong)Config.Read32(offset + 4) << 32),
        PciBarKind.Rom => Config.Read32(offset) & ~0x7FFu,
        _ => 0,
    };

    internal bool IsAwakeNow => _isAwake;

    private void Reset(PciResetKind kind)
    {
        lock (_control)
        {
            Config.Reset(kind);
            SyncVirtualFunctions();
            MsixTable?.Reset();
            Forget();
            try
            {
                OnReset(kind);
                _isFailed = false;
            }
            catch (Exception exception)
            {
                Fail("reset", exception);
            }
            // What the model did between the two is of before.
            Forget();
        }
    }

    private void Forget()
    {
        lock (_sync)
            _cause = false;
        SyncInterrupts();
    }

    private bool TryReadRegister(int bar, ulong offset, Span<byte> destination)
    {
        try
        {
            ReadRegister(bar, offset, destination);
            return true;
        }
        catch (Exception exception)
        {
            Fail($"read of BAR {bar} at 0x{offset:x}", exception);
            return false;
        }
    }

    private void TryWriteRegister(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        try
        {
            WriteRegister(bar, offset, source);
        }
        catch (Exception exception)
        {
            Fail($"write to BAR {bar} at 0x{offset:x}", exception);
        }
    }

    /// <summary>
    /// A bug of this program showed in the model: it is told, and the function stands in error until it is reset. Any thread, under no lock of
    /// the model.
    /// </summary>
    /// <param name="work">What was at work.</param>
    /// <param name="exception">What nobody was to see.</param>
    protected void Fail(string work, Exception exception)
    {
        _isFailed = true;
        FaultSource.Report(Faults, work, exception);
        lock (_sync)
            LinkMessages(false);
        PublishLine();
    }

    private BarPart Part(int bar, ulong offset, int wanted, out ulong start, out int length)
    {
        start = 0;
        length = wanted;
        if (_msixCapability is not { } msix || (bar != msix.TableBar && bar != msix.PendingBar))
            return BarPart.Registers;
        if (bar == msix.TableBar && IsIn(offset, msix.TableOffset, msix.TableSize, ref start, ref length))
            return BarPart.Table;
        return bar == msix.PendingBar && IsIn(offset, msix.PendingOffset, msix.PendingSize, ref start, ref length) ? BarPart.Pending : BarPart.Registers;
    }

    // Shortens the length to where the range begins or ends.
    private static bool IsIn(ulong offset, ulong first, ulong size, ref ulong start, ref int length)
    {
        if (offset < first)
        {
            length = (int)Math.Min((ulong)length, first - offset);
            return false;
        }
        if (offset >= first + size)
            return false;
        start = offset - first;
        length = (int)Math.Min((ulong)length, size - start);
        return true;
    }

    private enum BarPart
    {
        Registers,
        Table,
        Pending,
    }
}
