using Virtbus.Memory;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using Virtbus.Wire.VfioUser;

namespace Virtbus.Transports.VfioUser;

/// <summary>
/// A PCI function that another process serves over vfio-user: config space and registers are that server's, except for what says where the
/// function is (base address registers) and how it interrupts (MSI, MSI-X with their table); its DMA reaches what the slot's port reaches.
/// </summary>
/// <remarks>
/// The server is trusted with the memory that the slot's port reaches: it maps it. When the server goes, or asks for the function back (the REQ
/// interrupt), the function is gone for good. The virtual functions of a served function have sockets of their own; there are none here.
/// </remarks>
public sealed class VfioUserFunction : IPciFunction
{
    private const uint ConfigRegion = VfioUserProtocol.ConfigRegion;
    private const ulong PageSize = VfioUserProtocol.PageSize;

    private readonly VfioUserClient _client;
    private readonly VfioUserFunctionConfig _config;
    private readonly VfioUserFunctionGate _gate = new();
    private readonly VfioUserFunctionInterrupts _interrupts;
    private readonly Lock _control = new();
    private readonly IReadOnlyList<PciBarArea>[] _areas = new IReadOnlyList<PciBarArea>[PciBar.Count];
    private readonly (ulong Offset, HostMemory Memory)[][] _mapped = new (ulong, HostMemory)[PciBar.Count][];
    private readonly MappingAccount _mappings;
    private readonly List<PciDoorbell> _doorbells = [];
    private readonly List<EventFd> _signals = [];
    private readonly (ulong Start, ulong End)[] _tables = new (ulong, ulong)[2];
    private readonly int[] _tableBars = [-1, -1];
    private VfioUserFunctionMemory? _memory;
    private Action? _lost;
    private uint _command;
    private int _isLost;
    private bool _disposed;

    private VfioUserFunction(string path, VfioUserClientOptions options, CancellationToken cancellationToken)
    {
        _client = VfioUserClient.Connect(path, options with { Lost = Lose, ServeMemory = true }, cancellationToken);
        using var cancelled = _client.CloseWhen(cancellationToken);
        // A server that takes its memory away is as one that is gone.
        _mappings = new MappingAccount(() => _client.Close(new Fault(Errno.ECONNRESET, "the memory of a BAR is gone")));
        try
        {
            // Without a reserve it may go without mappings, and by messages.
            _mappings.TryReserve(out _);
            if (!_client.Info.IsPci)
                throw Refuse(path, new Fault(Errno.ENODEV, "the device is no PCI function"));
            var sizes = new ulong[PciBar.Count];
            Fault fault;
            for (var region = 0u; region < PciBar.Count; region++)
            {
                _areas[region] = [];
                _mapped[region] = [];
                if (!_client.TryGetRegionInfo(region, out var info, out fault))
                    throw Refuse(path, fault);
                sizes[region] = info!.Size;
            }

            if (!_client.TryGetRegionInfo(ConfigRegion, out var config, out fault) || config!.Size < PciHeader.PCI_CFG_SPACE_SIZE)
                throw Refuse(path, new Fault(Errno.ENODEV, "the device has no config space"));
            ConfigSize = config.Size >= PciHeader.PCI_CFG_SPACE_EXP_SIZE ? PciHeader.PCI_CFG_SPACE_EXP_SIZE : PciHeader.PCI_CFG_SPACE_SIZE;
            var bytes = new byte[ConfigSize];
            if (!_client.TryRead(ConfigRegion, 0, bytes, out fault))
                throw Refuse(path, fault);
            _command = BitConverter.ToUInt16(bytes, PciHeader.PCI_COMMAND);
            _config = new VfioUserFunctionConfig(bytes, sizes);
            _interrupts = new VfioUserFunctionInterrupts(_client, _gate, _config, Lose);
            FindTables();
            for (var bar = 0; bar < PciBar.Count; bar++)
                FindAreas(bar);
            cancellationToken.ThrowIfCancellationRequested();
        }
        catch
        {
            _interrupts?.Dispose();
            foreach (var (_, memory) in _mapped.Where(list => list is not null).SelectMany(list => list))
                memory.Dispose();
            _mappings.Dispose();
            _client.Dispose();
            cancellationToken.ThrowIfCancellationRequested();
            throw;
        }
    }

    /// <inheritdoc/>
    public int ConfigSize { get; }

    /// <inheritdoc/>
    public bool IsPresent => Volatile.Read(ref _isLost) == 0;

    /// <inheritdoc/>
    public IReadOnlyList<PciDoorbell> Doorbells => _doorbells;

    /// <inheritdoc/>
    public IReadOnlyList<IPciFunction> VirtualFunctions => [];

    /// <summary>Connects to a function's server.</summary>
    /// <param name="path">Path of the server's socket.</param>
    /// <param name="options">What the server is told; <see cref="VfioUserClientOptions.Lost"/> and <see cref="VfioUserClientOptions.ServeMemory"/> are the function's own.</param>
    /// <param name="cancellationToken">Ends the wait for the server.</param>
    /// <returns>The function, in no slot.</returns>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    /// <exception cref="VirtbusException">As <see cref="VfioUserClient.Connect"/>; ENODEV: the device is no PCI function.</exception>
    public static VfioUserFunction Connect(string path, VfioUserClientOptions? options = null, CancellationToken cancellationToken = default) =>
        new(path, options ?? new VfioUserClientOptions(), cancellationToken);

    /// <inheritdoc/>
    public void SetLostCallback(Action? lost)
    {
        Interlocked.Exchange(ref _lost, lost);
        if (!IsPresent)
            Interlocked.Exchange(ref _lost, null)?.Invoke();
    }

    /// <inheritdoc/>
    public void ReadConfig(int offset, Span<byte> destination)
    {
        if (IsPresent && offset == PciHeader.PCI_COMMAND && destination.Length == 2)
        {
            // Looked at for every interrupt; nobody but the writer changes it.
            BitConverter.TryWriteBytes(destination, (ushort)Volatile.Read(ref _command));
            return;
        }

        var covered = _config.Covers(offset, destination.Length);
        if (!IsPresent || (!covered && !_client.TryRead(ConfigRegion, (ulong)offset, destination, out _)))
        {
            destination.Fill(0xff);
            return;
        }

        if (!_config.Touches(offset, destination.Length))
            return;
        lock (_control)
            _config.Overlay(offset, destination);
    }

    /// <inheritdoc/>
    public void WriteConfig(int offset, ReadOnlySpan<byte> source)
    {
        if (!IsPresent)
            return;
        lock (_control)
        {
            _config.Store(offset, source);
            var at = 0;
            while (_config.TryGetTold(offset, source.Length, ref at, out var count))
            {
                _client.TryWrite(ConfigRegion, (ulong)(offset + at), source.Slice(at, count), out _);
                at += count;
            }

            if (Asks(offset, source, _config.Express, PciExpress.PCI_EXP_DEVCTL, PciExpress.PCI_EXP_DEVCTL_BCR_FLR))
                WasReset();
            if (offset < PciHeader.PCI_STATUS && offset + source.Length > PciHeader.PCI_COMMAND)
                ReadCommand();
            if (_config.Touches(offset, source.Length))
                SyncInterrupts();
        }
    }

    /// <inheritdoc/>
    public PciBar GetBar(int bar) => _config.Bars[bar];

    /// <inheritdoc/>
    public IReadOnlyList<PciBarArea> GetBarAreas(int bar) => _areas[bar];

    /// <inheritdoc/>
    public void ReadBar(int bar, ulong offset, Span<byte> destination)
    {
        if (!IsPresent || !TryFindPart(bar, offset, destination.Length, out var table, out var memory, out var start))
            destination.Fill(0xff);
        else if (table == 0)
            _interrupts.Msix!.Read(start, destination);
        else if (table == 1)
            _interrupts.Msix!.ReadPending(start, destination);
        else if (memory is not null)
            memory.Read(start, destination);
        else if (!_client.TryRead((uint)bar, offset, destination, out _))
            destination.Fill(0xff);
        _interrupts.Accessed();
    }

    /// <inheritdoc/>
    public void WriteBar(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        if (!IsPresent || !TryFindPart(bar, offset, source.Length, out var table, out var memory, out var start))
            return;
        if (table == 0)
            _interrupts.Msix!.Write(start, source);
        else if (memory is not null)
            memory.Write(start, source);
        else if (table < 0)
            _client.TryWrite((uint)bar, offset, source, out _);
        _interrupts.Accessed();
    }

    /// <inheritdoc/>
    public bool TryAttachDoorbell(in PciDoorbell doorbell, EventFd? signal, out Fault fault)
    {
        var index = _doorbells.IndexOf(doorbell);
        fault = index < 0 ? new Fault(Errno.ENOENT, "the function has no such doorbell") : Fault.None;
        if (index >= 0)
            _interrupts.Connect(index, signal, _signals[index]);
        return index >= 0;
    }

    /// <inheritdoc/>
    public void Plug(IPciPort port)
    {
        ArgumentNullException.ThrowIfNull(port);
        _gate.Open(port);
        // What drivers allocate from here on has a file that the server can map.
        port.Dma.Group.KeepsFiles = true;
        var memory = new VfioUserFunctionMemory(_client, port.Dma);
        lock (_control)
        {
            _memory = memory;
            SyncInterrupts();
        }

        port.Dma.SetChangeCallback(_ => memory.Refresh());
        memory.Refresh();
    }

    /// <inheritdoc/>
    public void Unplug()
    {
        if (!_gate.TryEnter(out var port))
            return;
        port.Dma.SetChangeCallback(null);
        VfioUserFunctionMemory? memory;
        lock (_control)
        {
            _interrupts.SetMode(null);
            memory = _memory;
            _memory = null;
        }

        _gate.Leave();
        _gate.Close();
        memory?.End();
    }

    /// <inheritdoc/>
    public void Reset()
    {
        lock (_control)
        {
            if (_client.Info.CanReset)
                _client.TryReset(out _);
            WasReset();
            ReadCommand();
            SyncInterrupts();
        }
    }

    /// <summary>Ends the connection; the server closes the device.</summary>
    public void Dispose()
    {
        lock (_control)
        {
            if (_disposed)
                return;
            _disposed = true;
        }

        Volatile.Write(ref _isLost, 1);
        Unplug();
        _client.Dispose();
        _interrupts.Dispose();
        foreach (var (_, memory) in _mapped.SelectMany(list => list))
            memory.Dispose();
        _mappings.Dispose();
    }

    private static VirtbusException Refuse(string path, Fault fault) => new(fault.Errno,
        $"The server of '{path}' offers nothing that can be a PCI function: {fault.Errno}, {fault.Message}. Look at what it serves.");

    private static bool Asks(int offset, ReadOnlySpan<byte> source, int capability, int register, int bit)
    {
        var at = capability + register - offset + (bit > 0xff ? 1 : 0);
        return capability != 0 && at >= 0 && at < source.Length && (source[at] & (bit > 0xff ? bit >> 8 : bit)) != 0;
    }

    private void Lose()
    {
        Volatile.Write(ref _isLost, 1);
        Interlocked.Exchange(ref _lost, null)?.Invoke();
    }

    private void ReadCommand()
    {
        Span<byte> word = stackalloc byte[2];
        if (_client.TryRead(ConfigRegion, PciHeader.PCI_COMMAND, word, out _))
            Volatile.Write(ref _command, BitConverter.ToUInt16(word));
    }

    // With the lock: what is kept here is as after power-on, and so are the server's interrupts.
    private void WasReset()
    {
        _config.Reset();
        _interrupts.Msix?.Reset();
        _interrupts.Msi?.Reset();
        _interrupts.SetMode(null);
        SyncInterrupts();
    }

    // With the lock.
    private void SyncInterrupts()
    {
        var mode = PciInterruptMode.Line;
        if (_interrupts.Msi is { } msi)
        {
            var at = _config.Msi;
            var data = at + (_config.IsMsi64 ? PciMsi.PCI_MSI_DATA_64 : PciMsi.PCI_MSI_DATA_32);
            var address = _config.Long(at + PciMsi.PCI_MSI_ADDRESS_LO) | (_config.IsMsi64 ? (ulong)_config.Long(at + PciMsi.PCI_MSI_ADDRESS_HI) << 32 : 0);
            msi.SetRegisters(_config.Word(at + PciMsi.PCI_MSI_FLAGS), address, _config.Word(data), _config.HasMsiMasks ? _config.Long(data + 4) : 0);
            if (msi.IsEnabled)
                mode = PciInterruptMode.Msi;
        }

        if (_interrupts.Msix is { } msix)
        {
            var control = _config.Word(_config.Msix + PciMsix.PCI_MSIX_FLAGS);
            msix.SetControl((control & PciMsix.PCI_MSIX_FLAGS_ENABLE) != 0, (control & PciMsix.PCI_MSIX_FLAGS_MASKALL) != 0);
            if (msix.IsEnabled)
                mode = PciInterruptMode.MsiX;
        }

        _interrupts.SetMode(_memory is null ? null : mode);
    }

    private void FindTables()
    {
        if (_interrupts.Msix is not { } msix)
            return;
        int[] registers = [PciMsix.PCI_MSIX_TABLE, PciMsix.PCI_MSIX_PBA];
        int[] lengths = [msix.TableSize, msix.PendingSize];
        for (var i = 0; i < 2; i++)
        {
            var place = _config.Long(_config.Msix + registers[i]);
            var bar = (int)(place & PciMsix.PCI_MSIX_BIR);
            if (bar >= PciBar.Rom)
                continue;
            _tableBars[i] = bar;
            var start = (ulong)(place & ~(uint)PciMsix.PCI_MSIX_BIR);
            _tables[i] = (start, start + (ulong)lengths[i]);
        }
    }

    private void FindAreas(int bar)
    {
        if (_config.Bars[bar].Kind == PciBarKind.None || !_client.TryGetRegionInfo((uint)bar, out var info, out _))
            return;
        // What is no file in memory is not to be mapped at all, by a user of the function neither: who serves its pages may let everybody wait
        // who touches one. It goes by messages.
        var areas = info!.Areas.Where(area => area.File.IsMemoryFile()).SelectMany(area => AroundTables(bar, area)).ToList();
        _areas[bar] = [.. areas.Select(area => new PciBarArea(area.Offset, area.Size, area.File, area.FileOffset) { IsPeerMemory = true })];
        var mapped = new List<(ulong, HostMemory)>();
        foreach (var area in areas)
        {
            if (HostMemory.TryMap(_mappings, area.File, area.FileOffset, area.Size, DmaAccess.ReadWrite, out var memory, out _))
                mapped.Add((area.Offset, memory!));
        }

        _mapped[bar] = [.. mapped];
        if (!_client.TryGetDoorbells((uint)bar, out var doorbells, out _))
            return;
        foreach (var doorbell in doorbells)
        {
            _doorbells.Add(new PciDoorbell(bar, doorbell.Register.Offset, doorbell.Register.Size, doorbell.Register.Match));
            _signals.Add(doorbell.Signal);
        }
    }

    // What lies over the MSI-X table or its pending bits is not to be mapped past them; the rest of such an area is.
    private IEnumerable<VfioRegionArea> AroundTables(int bar, VfioRegionArea area)
    {
        List<(ulong From, ulong To)> parts = [(area.Offset, area.Offset + area.Size)];
        for (var i = 0; i < 2; i++)
        {
            if (_tableBars[i] != bar)
                continue;
            // A map has whole pages.
            var first = _tables[i].Start & ~(PageSize - 1);
            var last = (_tables[i].End + PageSize - 1) & ~(PageSize - 1);
            parts = [.. parts.SelectMany(part => new[] { (part.From, Math.Min(part.To, first)), (Math.Max(part.From, last), part.To) }).Where(part => part.Item1 < part.Item2)];
        }

        return parts.Select(part => area with { Offset = part.From, Size = part.To - part.From, FileOffset = area.FileOffset + (part.From - area.Offset) });
    }

    /// <summary>Where an access goes: the MSI-X table (0), its pending bits (1), mapped memory, or the server. False when it leaves the BAR.</summary>
    private bool TryFindPart(int bar, ulong offset, int length, out int table, out HostMemory? memory, out ulong start)
    {
        (table, memory, start) = (-1, null, 0);
        var size = (uint)bar < PciBar.Count ? _config.Bars[bar].Size : 0;
        if (offset > size || (ulong)length > size - offset)
            return false;
        for (var i = 0; i < 2; i++)
        {
            if (_tableBars[i] != bar || offset < _tables[i].Start || offset >= _tables[i].End)
                continue;
            table = i;
            start = offset - _tables[i].Start;
            return true;
        }

        foreach (var (at, area) in _mapped[bar])
        {
            if (offset < at || offset - at > area.Size || (ulong)length > area.Size - (offset - at))
                continue;
            memory = area;
            start = offset - at;
            break;
        }

        return true;
    }
}
