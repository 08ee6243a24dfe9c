using System.Buffers.Binary;
using Microsoft.Extensions.Logging;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using static Virtbus.Pci.PciHeader;
using static Virtbus.Pci.PciMsi;
using static Virtbus.Pci.PciMsix;

namespace Virtbus.Transports.HostVfio;

/// <summary>
/// A function behind VFIO as the bus sees it. VFIO gives interrupts as eventfds and takes memory by mappings; here they become messages to the
/// addresses that the system wrote, and the memory is what the function's port reaches.
/// </summary>
/// <remarks>
/// The MSI and MSI-X registers and the MSI-X table are kept here, because VFIO does not let a user write the real ones. Of the line VFIO tells
/// only that it rose, and masks it: it counts as asserted until the next access to a BAR, when it is unmasked and rises again if it is up.
/// The file is long: each access to config space is partly kept here and partly passed on, and both parts stand side by side.
/// </remarks>
internal sealed class VfioFunction : IPciFunction
{
    private const uint ConfigRegion = 7;
    private const uint LineIndex = 0;
    private const uint MsiIndex = 1;
    private const uint MsixIndex = 2;
    private const uint RequestIndex = 4;
    private const ulong LineToken = ulong.MaxValue;
    private const ulong RequestToken = ulong.MaxValue - 1;
    private const ulong WakeToken = ulong.MaxValue - 2;
    private const ulong PieceSize = 1UL << 30;

    private readonly string _name;
    private readonly IVfioLink _link;
    private readonly ILogger _log;
    private readonly Lock _lock = new();
    private readonly PciBar[] _bars = new PciBar[PciBar.Count];
    private readonly Epoll _epoll = new();
    private readonly EventFd _wake = new();
    private readonly EventFd _line = new();
    private readonly EventFd _request = new();
    private readonly ManualResetEventSlim _ended = new();
    private readonly Dictionary<IovaRange, (nint Address, DmaAccess Access)> _maps = [];

    // The registers that are kept here. Guarded by _lock.
    private readonly int _msiAt;
    private readonly byte[] _msiBytes = [];
    private readonly byte[] _msiWritable = [];
    private readonly int _msixAt;
    private readonly MsiState? _msi;
    private readonly MsixTable? _msix;
    private readonly int _tableBar = -1;
    private readonly int _pendingBar = -1;
    private readonly ulong _tableOffset;
    private readonly ulong _pendingOffset;
    private readonly RemoteLine _level;
    private readonly bool _hasLine;
    private ushort _msixControl;
    private uint _armed = uint.MaxValue;
    private EventFd[] _signals = [];
    private IoMap? _held;
    private Action? _lost;
    private volatile IPciPort? _port;
    private int _users;
    private volatile bool _isGone;
    private volatile bool _isDisposed;

    public VfioFunction(string name, IVfioLink link, ILogger log)
    {
        _name = name;
        _link = link;
        _log = log;
        _level = new RemoteLine(
            SetLine,
            () => link.TrySetIrqs(
                new VfioIrqSet { Flags = VfioIrqSetFlags.DataNone | VfioIrqSetFlags.ActionUnmask, Index = LineIndex, Start = 0, Count = 1 }, out _));
        if (!link.TryGetRegion(ConfigRegion, out var config) || config.Size < PCI_CFG_SPACE_SIZE)
            throw new VirtbusException(Errno.ENODEV, $"Function {name} has no config space. It is no PCI device.");
        ConfigSize = (int)Math.Min(config.Size, PCI_CFG_SPACE_EXP_SIZE);
        FindBars();
        _hasLine = Read8(PCI_INTERRUPT_PIN) != 0 && link.GetVectors(LineIndex) > 0;
        _msiAt = FindCapability(PciCapabilityId.PCI_CAP_ID_MSI);
        if (_msiAt != 0)
        {
            var flags = Read16(_msiAt + PCI_MSI_FLAGS);
            (_msiBytes, _msiWritable) = MsiRegisters(flags);
            ReadReal(_msiAt, _msiBytes);
            _msi = new MsiState(1 << ((flags & PCI_MSI_FLAGS_QMASK) >> 1), (flags & PCI_MSI_FLAGS_MASKBIT) != 0, Send);
        }
        _msixAt = FindCapability(PciCapabilityId.PCI_CAP_ID_MSIX);
        if (_msixAt != 0)
        {
            _msixControl = (ushort)(Read16(_msixAt + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_QSIZE);
            uint table = Read32(_msixAt + PCI_MSIX_TABLE), pending = Read32(_msixAt + PCI_MSIX_PBA);
            (_tableBar, _tableOffset) = ((int)(table & PCI_MSIX_BIR), table & ~(uint)PCI_MSIX_BIR);
            (_pendingBar, _pendingOffset) = ((int)(pending & PCI_MSIX_BIR), pending & ~(uint)PCI_MSIX_BIR);
            _msix = new MsixTable(_msixControl + 1, Send);
        }
        _epoll.Add(_wake.Descriptor, WakeToken, edge: true);
        _epoll.Add(_line.Descriptor, LineToken, edge: true);
        _epoll.Add(_request.Descriptor, RequestToken, edge: true);
        if (link.GetVectors(RequestIndex) > 0)
            SetSignals(RequestIndex, [_request]);
        ServiceThread.Start("vfio " + name, Watch);
    }

    public int ConfigSize { get; }

    public bool IsPresent => !_isGone;

    public IReadOnlyList<PciDoorbell> Doorbells => [];

    // The host's own virtual functions are functions of their own here: their physical function is the host's.
    public IReadOnlyList<IPciFunction> VirtualFunctions => [];

    public void SetLostCallback(Action? lost)
    {
        Interlocked.Exchange(ref _lost, lost);
        if (_isGone)
            Interlocked.Exchange(ref _lost, null)?.Invoke();
    }

    public void ReadConfig(int offset, Span<byte> destination)
    {
        ReadReal(offset, destination);
        if (_isGone)
            return;
        Span<byte> control = stackalloc byte[2];
        lock (_lock)
        {
            Overlay(offset, destination, _msiAt, _msiBytes);
            BinaryPrimitives.WriteUInt16LittleEndian(control, _msixControl);
            if (_msixAt != 0)
                Overlay(offset, destination, _msixAt + PCI_MSIX_FLAGS, control);
        }
    }

    public void WriteConfig(int offset, ReadOnlySpan<byte> source)
    {
        if (_isGone)
            return;
        var kept = false;
        for (var i = 0; i < source.Length;)
        {
            var run = i;
            while (run < source.Length && !IsKept(offset + run))
                run++;
            if (run > i)
                _link.TryWrite(ConfigRegion, (ulong)(offset + i), source[i..run]);
            for (; run < source.Length && IsKept(offset + run); run++)
            {
                Keep(offset + run, source[run]);
                kept = true;
            }
            i = run;
        }
        if (kept)
            SyncInterrupts();
    }

    public PciBar GetBar(int bar) => (uint)bar < PciBar.Count ? _bars[bar] : default;

    public IReadOnlyList<PciBarArea> GetBarAreas(int bar) =>
        bar == _tableBar || bar == _pendingBar || (uint)bar >= PciBar.Rom || !_link.TryGetRegion((uint)bar, out var info)
            ? []
            : [.. info.Areas.Select(static a => new PciBarArea(a.Offset, a.Size, a.File, a.FileOffset))];

    public void ReadBar(int bar, ulong offset, Span<byte> destination)
    {
        if (_isGone)
            destination.Fill(0xFF);
        else if (IsIn(bar, offset, destination.Length, _tableBar, _tableOffset, _msix?.TableSize ?? 0))
            _msix!.Read(offset - _tableOffset, destination);
        else if (IsIn(bar, offset, destination.Length, _pendingBar, _pendingOffset, _msix?.PendingSize ?? 0))
            _msix!.ReadPending(offset - _pendingOffset, destination);
        else if (!_link.TryRead((uint)bar, offset, destination))
            destination.Fill(0xFF);
        _level.Accessed();
    }

    public void WriteBar(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        if (_isGone)
            return;
        if (IsIn(bar, offset, source.Length, _tableBar, _tableOffset, _msix?.TableSize ?? 0))
            _msix!.Write(offset - _tableOffset, source);
        else if (!IsIn(bar, offset, source.Length, _pendingBar, _pendingOffset, _msix?.PendingSize ?? 0))
            _link.TryWrite((uint)bar, offset, source);
        _level.Accessed();
    }

    public bool TryAttachDoorbell(in PciDoorbell doorbell, EventFd? signal, out Fault fault)
    {
        fault = new Fault(Errno.ENOENT, "the function has no such doorbell");
        return false;
    }

    public void Plug(IPciPort port)
    {
        _port = port;
        port.Dma.SetChangeCallback(_ => SyncMemory(port));
        SyncMemory(port);
        SyncInterrupts();
    }

    public void Unplug()
    {
        if (_port is not { } port)
            return;
        _port = null;
        // No DMA from here on, and then no memory.
        Span<byte> command = stackalloc byte[2];
        ReadReal(PCI_COMMAND, command);
        if (!_isGone)
            _link.TryWrite(ConfigRegion, PCI_COMMAND, [(byte)(command[0] & ~PciCommand.PCI_COMMAND_MASTER)]);
        port.Dma.SetChangeCallback(null);
        lock (_maps)
        {
            foreach (var range in _maps.Keys)
                _link.TryUnmap(range, out _);
            _maps.Clear();
            _held?.Dispose();
            _held = null;
        }
        SyncInterrupts();
        var spin = default(SpinWait);
        while (Volatile.Read(ref _users) > 0)
            spin.SpinOnce();
    }

    public void Reset()
    {
        if (_link.CanReset)
            _link.TryReset(out _);
        lock (_lock)
        {
            for (var i = 0; i < _msiBytes.Length; i++)
                _msiBytes[i] &= (byte)~_msiWritable[i];
            _msixControl &= PCI_MSIX_FLAGS_QSIZE;
            _msix?.Reset();
            _msi?.Reset();
        }
        SyncInterrupts();
    }

    public void Dispose()
    {
        if (_isDisposed)
            return;
        Unplug();
        _isGone = true;
        _isDisposed = true;
        _wake.Signal();
        _ended.Wait();
        _link.Dispose();
        _epoll.Dispose();
        foreach (var signal in (EventFd[])[_wake, _line, _request, .. _signals])
            signal.Dispose();
        _ended.Dispose();
    }

    // Registers.

    private void ReadReal(int offset, Span<byte> destination)
    {
        if (_isGone || !_link.TryRead(ConfigRegion, (ulong)offset, destination))
            destination.Fill(0xFF);
    }

    private byte Read8(int offset)
    {
        Span<byte> bytes = stackalloc byte[1];
        ReadReal(offset, bytes);
        return bytes[0];
    }

    private ushort Read16(int offset)
    {
        Span<byte> bytes = stackalloc byte[2];
        ReadReal(offset, bytes);
        return BinaryPrimitives.ReadUInt16LittleEndian(bytes);
    }

    private uint Read32(int offset)
    {
        Span<byte> bytes = stackalloc byte[4];
        ReadReal(offset, bytes);
        return BinaryPrimitives.ReadUInt32LittleEndian(bytes);
    }

    private int FindCapability(byte id)
    {
        // 48 capabilities fill the space: a list that bites its tail ends too.
        var at = Read8(PCI_CAPABILITY_LIST) & 0xFC;
        for (var hops = 0; at >= 0x40 && hops < 48; hops++)
        {
            var header = Read16(at);
            if ((byte)header == id)
                return at;
            at = (header >> 8) & 0xFC;
        }
        return 0;
    }

    // Sizes are what VFIO says; kinds are the low bits of the registers.
    private void FindBars()
    {
        for (var bar = 0; bar < PciBar.Count; bar++)
        {
            var size = _link.TryGetRegion((uint)bar, out var info) ? info.Size : 0;
            if (size == 0)
                continue;
            var register = bar == PciBar.Rom ? 0 : Read32(PCI_BASE_ADDRESS_0 + (4 * bar));
            var kind = bar == PciBar.Rom ? PciBarKind.Rom
                : (register & PCI_BASE_ADDRESS_SPACE_IO) != 0 ? PciBarKind.Io
                : (register & PCI_BASE_ADDRESS_MEM_TYPE_64) != 0 ? PciBarKind.Memory64 : PciBarKind.Memory32;
            _bars[bar] = new PciBar(kind, size, kind is PciBarKind.Memory32 or PciBarKind.Memory64 && (register & PCI_BASE_ADDRESS_MEM_PREFETCH) != 0);
        }
    }

    private static (byte[] Bytes, byte[] Writable) MsiRegisters(ushort flags)
    {
        var isWide = (flags & PCI_MSI_FLAGS_64BIT) != 0;
        var hasMasks = (flags & PCI_MSI_FLAGS_MASKBIT) != 0;
        var data = isWide ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32;
        var mask = isWide ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32;
        var writable = new byte[hasMasks ? mask + 8 : data + 2];
        BinaryPrimitives.WriteUInt16LittleEndian(writable.AsSpan(PCI_MSI_FLAGS), PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE);
        writable.AsSpan(PCI_MSI_ADDRESS_LO..data).Fill(0xFF);
        writable[PCI_MSI_ADDRESS_LO] = 0xFC;
        writable.AsSpan(data, 2).Fill(0xFF);
        if (hasMasks)
            writable.AsSpan(mask, 4).Fill(0xFF);
        return (new byte[writable.Length], writable);
    }

    private bool IsKept(int at) =>
        (_msiAt != 0 && at >= _msiAt + PCI_MSI_FLAGS && at < _msiAt + _msiBytes.Length) || (_msixAt != 0 && at >= _msixAt + PCI_MSIX_FLAGS && at < _msixAt + PCI_MSIX_TABLE);

    private void Keep(int at, byte value)
    {
        lock (_lock)
        {
            if (_msiAt != 0 && at - _msiAt is >= 0 and var i && i < _msiBytes.Length)
                _msiBytes[i] = (byte)((_msiBytes[i] & ~_msiWritable[i]) | (value & _msiWritable[i]));
            else if (at == _msixAt + PCI_MSIX_FLAGS + 1)
                _msixControl = (ushort)((_msixControl & PCI_MSIX_FLAGS_QSIZE) | ((value << 8) & (PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL)));
        }
    }

    private static void Overlay(int offset, Span<byte> destination, int at, ReadOnlySpan<byte> bytes)
    {
        var first = Math.Max(offset, at);
        var end = Math.Min(offset + destination.Length, at + bytes.Length);
        if (at != 0 && first < end)
            bytes[(first - at)..(end - at)].CopyTo(destination[(first - offset)..]);
    }

    private static bool IsIn(int bar, ulong offset, int length, int wanted, ulong start, int size) =>
        bar == wanted && offset >= start && offset + (ulong)length <= start + (ulong)size;

    // Interrupts.

    /// <summary>Lets VFIO signal what the registers ask for, and nothing while the function is in no slot.</summary>
    private void SyncInterrupts()
    {
        lock (_lock)
        {
            var isMsix = (_msixControl & PCI_MSIX_FLAGS_ENABLE) != 0;
            var isMsi = !isMsix && _msiAt != 0 && (_msiBytes[PCI_MSI_FLAGS] & PCI_MSI_FLAGS_ENABLE) != 0;
            var wanted = _port is null ? uint.MaxValue : isMsix ? MsixIndex : isMsi ? MsiIndex : _hasLine ? LineIndex : uint.MaxValue;
            if (wanted != _armed)
            {
                if (_armed != uint.MaxValue)
                    _link.TrySetIrqs(new VfioIrqSet { Flags = VfioIrqSetFlags.DataNone | VfioIrqSetFlags.ActionTrigger, Index = _armed, Start = 0, Count = 0 }, out _);
                _armed = wanted;
                Arm(wanted);
            }
        }
        // Not under the lock: what was pending goes out.
        if (_msiAt != 0)
            LoadMsi();
        _msix?.SetControl((_msixControl & PCI_MSIX_FLAGS_ENABLE) != 0, (_msixControl & PCI_MSIX_FLAGS_MASKALL) != 0);
    }

    private void LoadMsi()
    {
        ushort control;
        ulong address;
        uint data, mask;
        lock (_lock)
        {
            control = BinaryPrimitives.ReadUInt16LittleEndian(_msiBytes.AsSpan(PCI_MSI_FLAGS));
            var isWide = (control & PCI_MSI_FLAGS_64BIT) != 0;
            address = BinaryPrimitives.ReadUInt32LittleEndian(_msiBytes.AsSpan(PCI_MSI_ADDRESS_LO));
            if (isWide)
                address |= (ulong)BinaryPrimitives.ReadUInt32LittleEndian(_msiBytes.AsSpan(PCI_MSI_ADDRESS_HI)) << 32;
            data = BinaryPrimitives.ReadUInt16LittleEndian(_msiBytes.AsSpan(isWide ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32));
            mask = (control & PCI_MSI_FLAGS_MASKBIT) == 0 ? 0 : BinaryPrimitives.ReadUInt32LittleEndian(_msiBytes.AsSpan(isWide ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32));
        }
        _msi!.SetRegisters(control, address, data, mask);
    }

    private void Arm(uint index)
    {
        foreach (var signal in _signals)
        {
            _epoll.Remove(signal.Descriptor);
            signal.Dispose();
        }
        _signals = [];
        switch (index)
        {
            case LineIndex:
                SetSignals(index, [_line]);
                break;
            case MsiIndex or MsixIndex:
                var most = index == MsixIndex ? _msix!.Vectors : _msi!.Vectors;
                _signals = new EventFd[Math.Min(most, (int)_link.GetVectors(index))];
                for (var i = 0; i < _signals.Length; i++)
                {
                    _signals[i] = new EventFd();
                    _epoll.Add(_signals[i].Descriptor, (ulong)i, edge: true);
                }
                SetSignals(index, _signals);
                break;
            default:
                break;
        }
    }

    private void SetSignals(uint index, EventFd[] signals)
    {
        var set = new VfioIrqSet
        {
            Flags = VfioIrqSetFlags.DataEventFd | VfioIrqSetFlags.ActionTrigger,
            Index = index,
            Start = 0,
            Count = (uint)signals.Length,
            EventFds = signals,
        };
        if (!_link.TrySetIrqs(set, out var fault))
            HostVfioLog.NoInterrupts(_log, _name, fault.Errno);
    }

    private void Watch()
    {
        Span<ulong> tokens = stackalloc ulong[8];
        try
        {
            while (!_isDisposed)
            {
                var count = _epoll.Wait(tokens, -1);
                foreach (var token in tokens[..count])
                    Signalled(token);
            }
        }
        finally
        {
            _ended.Set();
        }
    }

    private void Signalled(ulong token)
    {
        switch (token)
        {
            case WakeToken:
                break;
            case RequestToken:
                HostVfioLog.Requested(_log, _name);
                _isGone = true;
                Interlocked.Exchange(ref _lost, null)?.Invoke();
                break;
            case LineToken:
                _level.Raise();
                break;
            default:
                // Whichever is enabled; the other one refuses.
                if (_msix?.Raise((int)token) != true)
                    _msi?.Raise((int)token);
                break;
        }
    }

    private void Send(ulong address, uint data)
    {
        if (TryUse(out var port))
        {
            port.SendMessage(address, data);
            Interlocked.Decrement(ref _users);
        }
    }

    private void SetLine(bool asserted)
    {
        if (TryUse(out var port))
        {
            port.SetInterruptLine(asserted);
            Interlocked.Decrement(ref _users);
        }
    }

    // Counted first and looked at then, so that an unplug that found nobody has shut the door before.
    private bool TryUse([System.Diagnostics.CodeAnalysis.NotNullWhen(true)] out IPciPort? port)
    {
        Interlocked.Increment(ref _users);
        port = _port;
        if (port is null)
            Interlocked.Decrement(ref _users);
        return port is not null;
    }

    // Memory.

    /// <summary>Makes VFIO's mappings those of the port. What goes is unmapped before the old memory is let go.</summary>
    private void SyncMemory(IPciPort port)
    {
        lock (_maps)
        {
            if (_port != port)
                return;
            var map = port.Dma.Snapshot();
            var wanted = new Dictionary<IovaRange, (nint Address, DmaAccess Access)>();
            foreach (var range in map.Ranges)
                Split(map, range, wanted);
            foreach (var (range, _) in _maps.Where(m => !wanted.TryGetValue(m.Key, out var now) || now != m.Value).ToArray())
            {
                _link.TryUnmap(range, out _);
                _maps.Remove(range);
            }
            foreach (var (range, memory) in wanted)
            {
                if (_maps.ContainsKey(range))
                    continue;
                if (_link.TryMap(range, memory.Address, memory.Access, out var fault))
                    _maps.Add(range, memory);
                else
                    HostVfioLog.NotMapped(_log, _name, range.Start.Value, range.Size, fault.Errno);
            }
            _held?.Dispose();
            _held = map;
        }
    }

    private static void Split(IoMap map, in IoRange range, Dictionary<IovaRange, (nint Address, DmaAccess Access)> pieces)
    {
        var hint = 0;
        for (var done = 0UL; done < range.Size; done += PieceSize)
        {
            var piece = new IovaRange(new Iova(range.Start.Value + done), Math.Min(range.Size - done, PieceSize));
            if (map.TryTranslate(piece.Start, (uint)piece.Size, range.Access, ref hint, out var run) && (ulong)run.Length == piece.Size)
                pieces[piece] = (run.Address, range.Access);
        }
    }
}
