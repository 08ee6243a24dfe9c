using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using static Virtbus.Pci.PciBridgeControl;
using static Virtbus.Pci.PciCommand;
using static Virtbus.Pci.PciHeader;
using static Virtbus.Pci.PciSriov;

namespace Virtbus.Buses.Pci;

/// <summary>
/// The function behind a device, and the one way to it: who has a device reaches registers by this and by nothing else. Whether the function is
/// there, whether it decodes and whether an access lies inside a BAR is decided here, once; the function below may rely on it.
/// </summary>
internal sealed class PciHardware(PciDevice device, IPciFunction function, PciGroup group)
{
    private readonly PciPort _port = new(device);
    private DmaPort? _dma;
    private FaultSource? _faults;
    private IDisposable? _observation;
    private volatile int _command;
    private long _commandReads;
    private long _commandSeen;
    private int _isOut;
    private volatile bool _isPlugged;
    private volatile bool _isLost;
    private volatile bool _isRomEnabled;

    internal IPciFunction Function { get; private set; } = function;

    /// <summary>The command register as the function has it: what decodes, and whether it is bus master, is read off here everywhere.</summary>
    internal int Command => _command;

    internal bool IsMaster => (_command & PCI_COMMAND_MASTER) != 0;

    internal bool IsReachable => _isPlugged && !_isLost && !device.IsGone;

    internal bool IsLost
    {
        get => _isLost;
        set => _isLost = value;
    }

    internal DmaPort Dma => Volatile.Read(ref _dma) ?? MakeDma();

    /// <summary>The port, when something has asked for it.</summary>
    internal DmaPort? DmaOrNull => Volatile.Read(ref _dma);

    /// <summary>Bugs of this program that showed in the function's model.</summary>
    internal FaultSource Faults => Volatile.Read(ref _faults) ?? LazyInitializer.EnsureInitialized(ref _faults, () => device.PciBus.Faults.Open(device.Name));

    /// <summary>How many there were, without a source being made.</summary>
    internal long FaultCount => Volatile.Read(ref _faults)?.Count ?? 0;

    internal void ReadConfig(int offset, Span<byte> destination)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(offset);
        var there = IsReachable ? Math.Clamp(Function.ConfigSize - offset, 0, destination.Length) : 0;
        destination[there..].Fill(0xFF);
        if (there > 0)
            Function.ReadConfig(offset, destination[..there]);
    }

    internal void WriteConfig(int offset, ReadOnlySpan<byte> source)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(offset);
        source = source[..Math.Clamp(Function.ConfigSize - offset, 0, source.Length)];
        if (!IsReachable || source.IsEmpty)
            return;
        var resetsBus = device.IsBridge && Overlaps(offset, source.Length, PCI_BRIDGE_CONTROL, 1) && IsBusReset;
        Function.WriteConfig(offset, source);
        // What is in the header beside the command register changes nothing of what the bus follows; anything else may be a reset.
        if (offset < PCI_REVISION_ID || offset + source.Length > 0x40)
            RefreshCommand();
        if (Overlaps(offset, source.Length, PCI_ROM_ADDRESS, 4) && !device.IsBridge)
            _isRomEnabled = (device.ReadConfig8(PCI_ROM_ADDRESS) & 1) != 0;
        if (device.Sriov is { } sriov && offset + source.Length > 0x40)
            sriov.IsMemoryEnabled = (device.ReadConfig16(sriov.Capability + PCI_SRIOV_CTRL) & 0x9) == 0x9;
        if (device.IsBridge && !resetsBus && Overlaps(offset, source.Length, PCI_BRIDGE_CONTROL, 1) && IsBusReset)
            device.PciBus.ResetBehind(device);
    }

    /// <summary>Reads registers of a BAR. EINVAL: the access leaves the BAR; EIO: the function does not decode it. All ones are read then.</summary>
    internal bool TryReadBar(PciRegion region, ulong offset, Span<byte> destination, out Fault fault)
    {
        if (!MayAccess(region, offset, destination.Length, out fault))
        {
            destination.Fill(0xFF);
            return false;
        }
        Function.ReadBar(region.Index, offset, destination);
        return true;
    }

    /// <summary>Writes registers of a BAR, or nothing for the same reasons.</summary>
    internal bool TryWriteBar(PciRegion region, ulong offset, ReadOnlySpan<byte> source, out Fault fault)
    {
        if (!MayAccess(region, offset, source.Length, out fault))
            return false;
        Function.WriteBar(region.Index, offset, source);
        return true;
    }

    internal bool TryReadRegisters(PciRegion region, ulong offset, Span<byte> destination, out Fault fault)
    {
        if (!MayAccess(region, offset, destination.Length, out fault))
        {
            destination.Fill(0xFF);
            return false;
        }
        while (destination.Length > 0)
        {
            var length = PciRegion.RegisterAt(offset, destination.Length);
            Function.ReadBar(region.Index, offset, destination[..length]);
            offset += (ulong)length;
            destination = destination[length..];
        }
        return true;
    }

    internal bool TryWriteRegisters(PciRegion region, ulong offset, ReadOnlySpan<byte> source, out Fault fault)
    {
        if (!MayAccess(region, offset, source.Length, out fault))
            return false;
        while (source.Length > 0)
        {
            var length = PciRegion.RegisterAt(offset, source.Length);
            Function.WriteBar(region.Index, offset, source[..length]);
            offset += (ulong)length;
            source = source[length..];
        }
        return true;
    }

    /// <summary>Reads the ROM whether its own enable bit is set or not; that it does not decode memory otherwise is no obstacle either.</summary>
    internal bool TryReadRom(PciRegion rom, ulong offset, Span<byte> destination, out Fault fault)
    {
        if (!IsInside(rom, offset, destination.Length, out fault))
        {
            destination.Fill(0xFF);
            return false;
        }
        if (IsReachable)
            Function.ReadBar(PciBar.Rom, offset, destination);
        else
            destination.Fill(0xFF);
        return true;
    }

    internal bool IsDecoding(PciBarKind kind)
    {
        if (!IsReachable)
            return false;
        if (device.PhysicalFunction is { } physical)
            return kind is PciBarKind.Memory32 or PciBarKind.Memory64 && physical.Sriov!.IsMemoryEnabled && physical.IsReachable;
        return kind switch
        {
            PciBarKind.None => false,
            PciBarKind.Io => (_command & PCI_COMMAND_IO) != 0,
            PciBarKind.Rom => (_command & PCI_COMMAND_MEMORY) != 0 && _isRomEnabled,
            _ => (_command & PCI_COMMAND_MEMORY) != 0,
        };
    }

    /// <summary>Puts the function into its slot. What it answers is read from here on.</summary>
    internal void Plug()
    {
        Function.Plug(_port);
        _isPlugged = true;
    }

    /// <summary>Takes the function out. Once; later calls answer false.</summary>
    /// <param name="quiet">Called before it is out, while interrupts may still come.</param>
    internal bool TryLeave(Action quiet)
    {
        if (Interlocked.Exchange(ref _isOut, 1) != 0)
            return false;
        quiet();
        if (_isPlugged)
        {
            // Hardware that stays in the slot may still be pulled out of it.
            Function.SetLostCallback(device.Slot is { } slot ? () => device.PciBus.Hotplug.EmptyLost(slot) : null);
            Function.Unplug();
        }
        _isPlugged = false;
        // Whoever still owns the group reaches nothing by a function that is out.
        DmaOrNull?.LeaveGroup();
        Interlocked.Exchange(ref _observation, null)?.Dispose();
        return true;
    }

    /// <summary>A reset of the physical function may have made its virtual functions anew.</summary>
    /// <returns>False when it is the one that is there.</returns>
    internal bool TryReplace(IPciFunction next)
    {
        if (next == Function)
            return false;
        Function.Unplug();
        Function = next;
        next.Plug(_port);
        RefreshCommand();
        return true;
    }

    /// <summary>The slot's reset line.</summary>
    internal void Reset()
    {
        Function.Reset();
        RefreshCommand();
    }

    internal void RefreshCommand()
    {
        // Numbered before the register is read, so that of two refreshes the one that read later counts.
        var number = Interlocked.Increment(ref _commandReads);
        var command = (int)device.ReadConfig16(PCI_COMMAND);
        if (command == 0xFFFF)
            command = 0;
        lock (_port)
        {
            if (number <= _commandSeen)
                return;
            _commandSeen = number;
            _command = command;
        }
        SyncMaster();
        device.InterruptsOrNull?.LineChanged();
    }

    private bool MayAccess(PciRegion region, ulong offset, int length, out Fault fault)
    {
        if (!IsInside(region, offset, length, out fault))
            return false;
        if (IsDecoding(region.Bar.Kind))
            return true;
        fault = new Fault(Errno.EIO, "the function does not decode the BAR");
        return false;
    }

    internal static bool IsInside(PciRegion region, ulong offset, int length, out Fault fault)
    {
        fault = Fault.None;
        if (offset <= region.Bar.Size && (ulong)length <= region.Bar.Size - offset)
            return true;
        fault = new Fault(Errno.EINVAL, "the access leaves the BAR");
        return false;
    }

    private bool IsBusReset => (device.ReadConfig16(PCI_BRIDGE_CONTROL) & PCI_BRIDGE_CTL_BUS_RESET) != 0;

    private DmaPort MakeDma()
    {
        lock (_port)
        {
            if (_dma is { } there)
                return there;
            var dma = new DmaPort(device.Name, group.Iommu);
            _observation = dma.Group.Observe(new DmaFaultEvents(device, dma).Add, null);
            Volatile.Write(ref _dma, dma);
        }
        SyncMaster();
        return _dma;
    }

    // The port may wait for accesses and call handlers, so no lock is held; who finds that the register changed meanwhile sets it again.
    private void SyncMaster()
    {
        if (Volatile.Read(ref _dma) is not { } dma)
            return;
        bool isMaster;
        do
        {
            isMaster = IsMaster;
            dma.IsBusMaster = isMaster;
        }
        while (isMaster != IsMaster);
    }

    private static bool Overlaps(int offset, int length, int at, int size) => offset < at + size && at < offset + length;
}
