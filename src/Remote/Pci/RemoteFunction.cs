using System.Buffers.Binary;
using Microsoft.Extensions.Logging;
using Virtbus.Pci;
using Virtbus.Platform;

namespace Virtbus.Remote.Pci;

/// <summary>
/// A PCI function that is elsewhere: in another process that serves it over vfio-user, or in the host, which hands it out by its vfio. Config space and
/// registers are its own, except for what says where the function is (base address registers) and how it interrupts (MSI, MSI-X with their table);
/// its DMA reaches what the slot's port reaches.
/// </summary>
/// <remarks>
/// A process that serves a function is trusted with the memory that the slot's port reaches: it maps it. When the other end goes, or asks for the
/// function back (the REQ interrupt), the function is gone for good. Virtual functions of a function that is elsewhere are functions of their own there;
/// there are none here. Of the line VFIO tells only that it rose, and masks it: it counts as asserted until the next access to a BAR, when it is
/// unmasked and rises again if it is up.
/// </remarks>
public sealed class RemoteFunction : IPciFunction
{
    private const uint ConfigRegion = 7;

    private readonly IRemoteLink _link;
    private readonly ILogger _log;
    private readonly RemoteConfig _config;
    private readonly RemoteSlot _slot = new();
    private readonly RemoteInterrupts _interrupts;
    private readonly RemoteBars _bars;
    private readonly Lock _control = new();
    private readonly RemoteDoorbells _doorbells = new();
    private RemoteMemory? _memory;
    private Action? _lost;
    private uint _command;
    private int _isLost;
    private bool _disposed;

    /// <summary>Makes it of what is behind a link, which belongs to it from here on, also when this throws.</summary>
    /// <exception cref="VirtbusException">There is no PCI function behind it; or the host has no descriptor or thread left.</exception>
    internal RemoteFunction(IRemoteLink link, ILogger log)
    {
        _link = link;
        _log = log;
        try
        {
            var sizes = new ulong[PciBar.Count];
            Fault fault;
            for (var region = 0u; region < PciBar.Count; region++)
            {
                if (!link.TryGetRegion(region, out var info, out fault))
                    throw link.Refuse(fault);
                sizes[region] = info.Size;
            }

            if (!link.TryGetRegion(ConfigRegion, out var config, out fault) || config.Size < PciHeader.PCI_CFG_SPACE_SIZE)
                throw link.Refuse(new Fault(Errno.ENODEV, "the device has no config space"));
            ConfigSize = config.Size >= PciHeader.PCI_CFG_SPACE_EXP_SIZE ? PciHeader.PCI_CFG_SPACE_EXP_SIZE : PciHeader.PCI_CFG_SPACE_SIZE;
            var bytes = new byte[ConfigSize];
            if (!link.TryRead(ConfigRegion, 0, bytes, out fault))
                throw link.Refuse(fault);
            _command = BinaryPrimitives.ReadUInt16LittleEndian(bytes.AsSpan(PciHeader.PCI_COMMAND));
            _config = new RemoteConfig(bytes, sizes);
            _interrupts = new RemoteInterrupts(link, _slot, _config, log, Requested);
            _bars = new RemoteBars(link, _config, _interrupts.Msix);
            for (var bar = 0; bar < PciBar.Count; bar++)
                FindDoorbells(bar);
            link.SetLostCallback(Lose);
        }
        catch
        {
            // First: whoever waits for the other end goes on.
            link.Dispose();
            _interrupts?.Dispose();
            _bars?.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public int ConfigSize { get; }

    /// <inheritdoc/>
    public bool IsPresent => Volatile.Read(ref _isLost) == 0;

    /// <inheritdoc/>
    public bool IsReal => !_link.IsPeer;

    /// <inheritdoc/>
    public IReadOnlyList<PciDoorbell> Doorbells => _doorbells.All;

    /// <inheritdoc/>
    public IReadOnlyList<IPciFunction> VirtualFunctions => [];

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
            BinaryPrimitives.WriteUInt16LittleEndian(destination, (ushort)Volatile.Read(ref _command));
            return;
        }

        var covered = _config.Covers(offset, destination.Length);
        if (!IsPresent || (!covered && !_link.TryRead(ConfigRegion, (ulong)offset, destination, out _)))
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
                _link.TryWrite(ConfigRegion, (ulong)(offset + at), source.Slice(at, count), out _);
                at += count;
            }

            if (Asks(offset, source, _config.Express, PciExpress.PCI_EXP_DEVCTL, PciExpress.PCI_EXP_DEVCTL_BCR_FLR))
            {
                WasReset();
                ReadCommand();
            }

            if (offset < PciHeader.PCI_STATUS && offset + source.Length > PciHeader.PCI_COMMAND)
                ReadCommand();
            if (_config.Touches(offset, source.Length))
                SyncInterrupts();
        }

        _interrupts.Flush();
    }

    /// <inheritdoc/>
    public PciBar GetBar(int bar) => (uint)bar < PciBar.Count ? _config.Bars[bar] : default;

    /// <inheritdoc/>
    public IReadOnlyList<PciBarArea> GetBarAreas(int bar) => _bars.AreasOf(bar);

    /// <inheritdoc/>
    public void ReadBar(int bar, ulong offset, Span<byte> destination)
    {
        while (destination.Length > 0)
        {
            if (!IsPresent || !_bars.TryFind(bar, offset, destination.Length, out var place))
            {
                destination.Fill(0xff);
                break;
            }

            var part = destination[..place.Length];
            if (place.IsTable)
                _interrupts.Msix!.Read(place.Start, part);
            else if (place.IsPending)
                _interrupts.Msix!.ReadPending(place.Start, part);
            else if (place.Memory is { } memory)
                memory.Read(place.Start, part);
            else if (!_link.TryRead((uint)bar, offset, part, out _))
                part.Fill(0xff);
            offset += (ulong)place.Length;
            destination = destination[place.Length..];
        }

        _interrupts.Accessed();
    }

    /// <inheritdoc/>
    public void WriteBar(int bar, ulong offset, ReadOnlySpan<byte> source)
    {
        while (source.Length > 0)
        {
            if (!IsPresent || !_bars.TryFind(bar, offset, source.Length, out var place))
                return;
            var part = source[..place.Length];
            if (place.IsTable)
                _interrupts.Msix!.Write(place.Start, part);
            else if (place.Memory is { } memory)
                memory.Write(place.Start, part);
            else if (!place.IsPending && !_doorbells.TrySignal(bar, offset, part))
                _link.TryWrite((uint)bar, offset, part, out _);
            offset += (ulong)place.Length;
            source = source[place.Length..];
        }

        _interrupts.Accessed();
    }

    /// <inheritdoc/>
    public bool TryAttachDoorbell(in PciDoorbell doorbell, EventFd? signal, out Fault fault)
    {
        var own = _doorbells.Find(doorbell, out var index);
        fault = own is null ? new Fault(Errno.ENOENT, "the function has no such doorbell") : Fault.None;
        if (own is not null)
            _interrupts.Connect(index, signal, own);
        return own is not null;
    }

    /// <inheritdoc/>
    public void Plug(IPciPort port)
    {
        ArgumentNullException.ThrowIfNull(port);
        _slot.Open(port);
        // What drivers allocate from here on has a file that a peer can map.
        if (_link.IsPeer)
            port.Dma.Group.KeepsFiles = true;
        var memory = new RemoteMemory(_link, port.Dma, _log);
        lock (_control)
        {
            _memory = memory;
            SyncInterrupts();
        }

        _interrupts.Flush();

        port.Dma.SetChangeCallback(_ => memory.Refresh());
        memory.Refresh();
    }

    /// <inheritdoc/>
    public void Unplug()
    {
        if (!_slot.TryEnter(out var port))
            return;
        StopDma();
        port.Dma.SetChangeCallback(null);
        RemoteMemory? memory;
        lock (_control)
        {
            _interrupts.SetMode(null);
            memory = _memory;
            _memory = null;
        }

        _slot.Leave();
        _slot.Close();
        memory?.End();
    }

    /// <inheritdoc/>
    public void Reset()
    {
        lock (_control)
        {
            if (_link.CanReset)
                _link.TryReset(out _);
            WasReset();
            ReadCommand();
            SyncInterrupts();
        }

        _interrupts.Flush();
    }

    /// <summary>Ends the link; the other end has its function back.</summary>
    public void Dispose()
    {
        lock (_control)
        {
            if (_disposed)
                return;
            _disposed = true;
        }

        // A peer loses its function by the end of the link; the host is told to stop it first.
        if (_link.IsPeer)
            Volatile.Write(ref _isLost, 1);
        Unplug();
        Volatile.Write(ref _isLost, 1);
        // Who waits for a peer is ended by the end of the link; on the host's a signal is being worked on that still uses it.
        _doorbells.Close();
        if (_link.IsPeer)
        {
            _link.Dispose();
            _interrupts.Dispose();
        }
        else
        {
            _interrupts.Dispose();
            _link.Dispose();
        }

        _bars.Dispose();
    }

    private static bool Asks(int offset, ReadOnlySpan<byte> source, int capability, int register, int bit)
    {
        var at = capability + register - offset + (bit > 0xff ? 1 : 0);
        return capability != 0 && at >= 0 && at < source.Length && (source[at] & (bit > 0xff ? bit >> 8 : bit)) != 0;
    }

    private void FindDoorbells(int bar)
    {
        if (_config.Bars[bar].Kind == PciBarKind.None)
            return;
        foreach (var (register, signal) in _link.GetDoorbells((uint)bar))
            _doorbells.Add(bar, register, signal);
    }

    private void Requested()
    {
        if (!_link.IsPeer)
            RemoteLog.Requested(_log, _link.Name);
        Lose();
    }

    private void Lose()
    {
        Volatile.Write(ref _isLost, 1);
        Interlocked.Exchange(ref _lost, null)?.Invoke();
    }

    // No DMA from here on, and then no memory.
    private void StopDma()
    {
        lock (_control)
        {
            if (!IsPresent || (_command & PciCommand.PCI_COMMAND_MASTER) == 0)
                return;
            _link.TryWrite(ConfigRegion, PciHeader.PCI_COMMAND, [(byte)(_command & ~(uint)PciCommand.PCI_COMMAND_MASTER)], out _);
            ReadCommand();
        }
    }

    private void ReadCommand()
    {
        Span<byte> word = stackalloc byte[2];
        if (_link.TryRead(ConfigRegion, PciHeader.PCI_COMMAND, word, out _))
            Volatile.Write(ref _command, BinaryPrimitives.ReadUInt16LittleEndian(word));
    }

    // With the lock: what is kept here is as after power-on, and so are the function's interrupts.
    private void WasReset()
    {
        _config.Reset();
        _interrupts.Msix?.Reset();
        _interrupts.Msi?.Reset();
        _interrupts.SetMode(null);
        SyncInterrupts();
    }

    // With the lock; what becomes due by it is sent when the lock is free.
    private void SyncInterrupts()
    {
        var mode = PciInterruptMode.Line;
        if (_interrupts.Msi is { } msi)
        {
            var at = _config.Msi;
            var data = at + (_config.IsMsi64 ? PciMsi.PCI_MSI_DATA_64 : PciMsi.PCI_MSI_DATA_32);
            var address = _config.Long(at + PciMsi.PCI_MSI_ADDRESS_LO) | (_config.IsMsi64 ? (ulong)_config.Long(at + PciMsi.PCI_MSI_ADDRESS_HI) << 32 : 0);
            msi.Load(_config.Word(at + PciMsi.PCI_MSI_FLAGS), address, _config.Word(data), _config.HasMsiMasks ? _config.Long(data + 4) : 0);
            if (msi.IsEnabled)
                mode = PciInterruptMode.Msi;
        }

        if (_interrupts.Msix is { } msix)
        {
            var control = _config.Word(_config.Msix + PciMsix.PCI_MSIX_FLAGS);
            msix.Load((control & PciMsix.PCI_MSIX_FLAGS_ENABLE) != 0, (control & PciMsix.PCI_MSIX_FLAGS_MASKALL) != 0);
            if (msix.IsEnabled)
                mode = PciInterruptMode.MsiX;
        }

        _interrupts.SetMode(_memory is null ? null : mode);
    }
}
