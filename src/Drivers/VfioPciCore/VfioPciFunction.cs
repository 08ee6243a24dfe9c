using System.Numerics;
using Virtbus.Buses.Pci;
using Virtbus.Memory;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;
using static Virtbus.Drivers.VfioPci.VfioPciRegion;

namespace Virtbus.Drivers.VfioPci;

/// <summary>
/// The tool box for handing a PCI function to a user over VFIO. Each callback that VFIO asks of a driver is here, complete. A driver takes
/// them as they are, derives and wraps some (calls the base), or answers some by itself; or it makes ops of its own and calls these from
/// them. It owns no driver and asks for no ids (VP-01 to VP-04).
/// </summary>
/// <remarks>The calls of an open device come one at a time (<see cref="IVfioDeviceOps"/>); <see cref="Request"/> may come during any.</remarks>
public class VfioPciFunction : IVfioDeviceOps
{
    private const ushort HeaderTypeMask = 0x7F;
    private const ulong PageSize = 4096;
    private const int PasidControl = 6;

    private readonly VfioPciInterrupts _interrupts;
    private readonly VfioPciDoorbells _doorbells;
    private readonly Func<uint, bool> _isEnabledNow;
    private readonly int _pasid;
    private readonly PciMsixPlace? _msixTable;
    private PciRegion[] _bars = [];
    private VfioPciConfig? _config;
    private VfioOwner? _user;
    private VfioDevice? _registered;
    private bool _canReset;
    private bool _isEnabled;
    private volatile bool _wasReset;

    /// <summary>Makes the tool box's state for a function. Probes call it; nothing of the function is touched before it is opened.</summary>
    /// <param name="device">The function.</param>
    /// <exception cref="VirtbusException">EINVAL: it is a bridge.</exception>
    public VfioPciFunction(PciDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        Span<byte> type = stackalloc byte[1];
        device.ReadConfig(PciHeader.PCI_HEADER_TYPE, type);
        if (device.PhysicalFunction is null && (type[0] & HeaderTypeMask) != PciHeader.PCI_HEADER_TYPE_NORMAL)
            throw new VirtbusException(Errno.EINVAL, $"Device {device.Name} is a bridge, which no user can have. Hand out the functions behind it.");
        Device = device;
        _interrupts = new VfioPciInterrupts(device);
        _doorbells = new VfioPciDoorbells(device);
        _isEnabledNow = IsEnabled;
        _msixTable = PciMsixPlace.Find(device);
        _pasid = (device.PhysicalFunction ?? device).FindExtendedCapability(PciExtendedCapabilityId.PCI_EXT_CAP_ID_PASID);
    }

    /// <summary>The function.</summary>
    public PciDevice Device { get; }

    /// <summary>Config space as the user sees it, while it is open; else null.</summary>
    public VfioPciConfig? Config => _config;

    /// <summary>Which way to interrupt the user has enabled.</summary>
    public PciInterruptKinds InterruptKind => _interrupts.Kind;

    /// <inheritdoc/>
    public virtual VfioDeviceInfo Info => new(_canReset, IsPci: true, VFIO_PCI_NUM_REGIONS, VfioPciIrq.VFIO_PCI_NUM_IRQS);

    /// <summary>True: the bus checks the range of accesses to BARs. An override that answers for a register by itself gets any range too.</summary>
    public virtual bool ChecksRange => true;

    /// <inheritdoc/>
    public virtual IVfioMigrationOps? Migration => null;

    /// <inheritdoc/>
    public virtual IVfioDmaLoggingOps? DmaLogging => null;

    /// <summary>
    /// Opens the function: takes the ownership of its DMA, enables and resets it, and makes the image of config space. Bus mastering is off,
    /// no interrupt is set up, nothing is attached.
    /// </summary>
    /// <param name="user">Who owns its DMA from here on.</param>
    /// <param name="fault">EBUSY: its DMA belongs to another; EIO, EINVAL: it cannot be enabled.</param>
    public virtual bool TryOpen(VfioOwner user, out Fault fault)
    {
        if (!Device.IommuGroup.TryClaimForUser(user, user.Name, out fault))
            return false;
        _user = user;
        try
        {
            Device.Enable();
            _isEnabled = true;
            _canReset = TryResetFunction(out fault);
            if (!_canReset && fault.Errno != Errno.ENOTTY)
            {
                Close();
                return false;
            }
            Device.SetMaster(false);
            _bars = [.. Enumerable.Range(0, PciBar.Count).Select(Device.GetRegion)];
            _config = new VfioPciConfig(Device, _interrupts, () => TryReset(out _));
            _wasReset = false;
            SyncDoorbells();
            fault = Fault.None;
            return true;
        }
        catch (VirtbusException e)
        {
            Close();
            fault = new Fault(e.Errno, e.Message);
            return false;
        }
    }

    /// <summary>
    /// Closes the function (VP-10): no interrupt, no doorbell, no DMA any more; reset, with its config space as before the open; disabled; the
    /// ownership given back.
    /// </summary>
    public virtual void Close()
    {
        Device.SetMaster(false);
        _interrupts.Disable();
        _doorbells.Clear();
        if (_isEnabled)
        {
            // One that has no reset of its own is at least quiet.
            TryResetFunction(out _);
            _config?.Restore();
            Device.SetMaster(false);
            Device.Disable();
            _isEnabled = false;
        }
        _config = null;
        SetPasidEnabled(false);
        if (_user is { } user)
            Device.IommuGroup.ReleaseUser(user, Device.Dma);
        _user = null;
    }

    /// <inheritdoc/>
    public virtual VfioRegionInfo GetRegionInfo(uint index)
    {
        const VfioRegionFlags both = VfioRegionFlags.Read | VfioRegionFlags.Write;
        if (index == VFIO_PCI_CONFIG_REGION_INDEX)
            return new VfioRegionInfo(both, (ulong)Device.ConfigSize);
        if (index >= (uint)_bars.Length || _bars[index].Bar is not { Size: > 0 } bar)
            return new VfioRegionInfo(VfioRegionFlags.None, 0);
        if (index == VFIO_PCI_ROM_REGION_INDEX)
            return new VfioRegionInfo(VfioRegionFlags.Read, bar.Size);
        var areas = bar.Kind == PciBarKind.Io ? [] : GetAreas((int)index, bar.Size);
        return new VfioRegionInfo(areas.Count > 0 ? both | VfioRegionFlags.Mmap : both, bar.Size) { Areas = areas };
    }

    /// <inheritdoc/>
    public virtual VfioIrqInfo GetIrqInfo(uint index) => _interrupts.GetInfo(index);

    /// <inheritdoc/>
    public virtual bool TryRead(uint region, ulong offset, Span<byte> destination, out Fault fault)
    {
        if (region == VFIO_PCI_CONFIG_REGION_INDEX && _config is { } config)
        {
            NoteReset(config);
            return config.TryRead(offset, destination, out fault);
        }
        if (!IsAccessible(region, testMemory: true, out fault))
            return false;
        // The ROM's own enable bit is the user's note; the tool box reads past it, as it may.
        if (region == VFIO_PCI_ROM_REGION_INDEX)
            return _bars[region].TryReadRom(offset, destination, out fault);
        if (!MeetsMsixTable(region, offset, destination.Length))
            return _bars[region].TryReadRegisters(offset, destination, out fault);
        if (!_bars[region].Holds(offset, destination.Length, out fault))
            return false;
        for (var done = 0; done < destination.Length;)
        {
            var at = offset + (ulong)done;
            var piece = destination.Slice(done, PciRegion.RegisterAt(at, destination.Length - done));
            if (IsInMsixTable(region, at, out var entry))
                _interrupts.ReadTable(entry, piece);
            else if (!_bars[region].TryRead(at, piece, out fault))
                return false;
            done += piece.Length;
        }
        return true;
    }

    /// <inheritdoc/>
    public virtual bool TryWrite(uint region, ulong offset, ReadOnlySpan<byte> source, out Fault fault)
    {
        if (region == VFIO_PCI_CONFIG_REGION_INDEX && _config is { } config)
        {
            NoteReset(config);
            var done = config.TryWrite(offset, source, out fault);
            SyncDoorbells();
            return done;
        }
        if (!IsAccessible(region, testMemory: true, out fault))
            return false;
        if (!MeetsMsixTable(region, offset, source.Length))
            return _bars[region].TryWriteRegisters(offset, source, out fault);
        if (!_bars[region].Holds(offset, source.Length, out fault))
            return false;
        for (var done = 0; done < source.Length;)
        {
            var at = offset + (ulong)done;
            var piece = source.Slice(done, PciRegion.RegisterAt(at, source.Length - done));
            // Messages of the function are the system's: SET_IRQS sets them up. The user has a table of its own, whose masks count.
            if (IsInMsixTable(region, at, out var entry))
                _interrupts.WriteTable(entry, piece);
            else if (!_bars[region].TryWrite(at, piece, out fault))
                return false;
            done += piece.Length;
        }
        return true;
    }

    /// <inheritdoc/>
    public virtual bool TrySetIrqs(in VfioIrqSet set, out Fault fault) => _interrupts.TrySet(set, out fault);

    /// <summary>Resets the function; config space and interrupts are as before it. So do the bits of config space that ask for a reset.</summary>
    /// <param name="fault">EOPNOTSUPP: it has no reset; ENODEV: it is gone.</param>
    public virtual bool TryReset(out Fault fault)
    {
        if (TryResetFunction(out fault))
        {
            _config?.ApplyCommand();
            _config?.OpenMasks();
            return true;
        }
        if (fault.Errno == Errno.ENOTTY)
            fault = new Fault(Errno.EOPNOTSUPP, fault.Message);
        return false;
    }

    /// <summary>Signals the eventfd of the REQ interrupt, when the user has set one.</summary>
    /// <param name="count">How often it was asked before.</param>
    public virtual void Request(int count) => _interrupts.SignalRequest();

    /// <inheritdoc/>
    public virtual bool TryAttach(IoAddressSpace? space, uint? pasid, out Fault fault)
    {
        if (_user is not { } user)
            return Refuse(Errno.EPERM, "the function is not open", out fault);
        if (pasid is not { } number)
            return Device.IommuGroup.TryAttach(user, Device.Dma, space, out fault);
        if (_pasid == 0)
            return Refuse(Errno.EOPNOTSUPP, "the function marks no requests with PASIDs", out fault);
        if (!Device.IommuGroup.TryAttach(user, Device.Dma.ForPasid(number), space, out fault))
            return false;
        if (space is not null)
            SetPasidEnabled(true);
        return true;
    }

    /// <inheritdoc/>
    public virtual IReadOnlyList<VfioDoorbell> GetDoorbells(uint region) =>
        [.. Device.Doorbells.Where(d => d.Bar == region).Select(d => new VfioDoorbell(d.Offset, d.Size, d.Match))];

    /// <inheritdoc/>
    public virtual bool TryAttachDoorbell(uint region, VfioDoorbell doorbell, EventFd? signal, out Fault fault)
    {
        var place = new PciDoorbell((int)region, doorbell.Offset, doorbell.Size, doorbell.Match);
        return Device.Doorbells.Contains(place)
            ? TryAttachDoorbell(region, doorbell, place, signal, out fault)
            : Refuse(Errno.ENOENT, "the function has no such doorbell", out fault);
    }

    /// <summary>Tells the user that the function is in an error that it does not recover from (ERR interrupt).</summary>
    /// <returns>False when the user did not ask to be told.</returns>
    public bool SignalError() => _interrupts.SignalError();

    /// <summary>What <see cref="RegisterAsync"/> made; null before and after.</summary>
    public VfioDevice? Registered => Volatile.Read(ref _registered);

    /// <summary>Registers the function with VFIO.</summary>
    /// <param name="ops">The driver's ops; this object's when null.</param>
    /// <exception cref="VirtbusException">ENODEV: the function leaves the tree just now.</exception>
    public async ValueTask RegisterAsync(IVfioDeviceOps? ops = null) =>
        Volatile.Write(ref _registered, await VfioSubsystem.Of(Device.Fabric!).RegisterAsync(Device, Device.Name, ops ?? this));

    /// <summary>Takes it out again, see <see cref="VfioSubsystem.UnregisterAsync"/>. Without effect when it is not registered.</summary>
    public async ValueTask UnregisterAsync()
    {
        if (Registered is not { } device)
            return;
        await VfioSubsystem.Of(Device.Fabric!).UnregisterAsync(device);
        Volatile.Write(ref _registered, null);
    }

    /// <summary>For the driver's <see cref="PciDriver.ResetDoneAsync"/>: somebody reset the function past its user.</summary>
    public void ResetDone()
    {
        _wasReset = true;
        // A virtual function is another one after a reset of its physical function.
        _doorbells.Renew();
        OnReset();
    }

    /// <summary>A BAR for a driver's own accesses (VP-08).</summary>
    /// <param name="bar">0 to 5.</param>
    /// <param name="region">The BAR.</param>
    /// <param name="fault">ENODEV: the function has no such BAR, or it has no place.</param>
    public bool TryGetBar(int bar, out PciRegion? region, out Fault fault)
    {
        region = null;
        fault = Fault.None;
        if (bar is < 0 or >= PciBar.Rom || Device.GetRegion(bar) is not { Bar.Size: > 0 } there)
            return Refuse(Errno.ENODEV, "the function has no such BAR", out fault);
        region = there;
        return true;
    }

    /// <summary>Reads one register for a driver, while the function is open (VP-08).</summary>
    /// <typeparam name="T">Its size: <see cref="byte"/>, <see cref="ushort"/>, <see cref="uint"/> or <see cref="ulong"/>.</typeparam>
    /// <param name="bar">Which BAR.</param>
    /// <param name="offset">Byte offset, a multiple of the size.</param>
    /// <param name="testMemory">Whether it counts that the user has the BAR's kind of access enabled; for accesses that the user asked for.</param>
    /// <param name="value">The value.</param>
    /// <param name="fault">EIO: not enabled, or the function does not decode; EINVAL: alignment, outside of the BAR.</param>
    public bool TryReadRegister<T>(int bar, ulong offset, bool testMemory, out T value, out Fault fault)
        where T : unmanaged, IBinaryInteger<T>, IUnsignedNumber<T>
    {
        value = T.Zero;
        Span<byte> bytes = stackalloc byte[value.GetByteCount()];
        if (!IsRegister(bar, offset, bytes.Length, testMemory, out fault))
            return false;
        if (!_bars[bar].TryRead(offset, bytes, out fault))
            return false;
        value = T.ReadLittleEndian(bytes, isUnsigned: true);
        return true;
    }

    /// <summary>Writes one register for a driver, while the function is open (VP-08).</summary>
    /// <typeparam name="T">Its size: <see cref="byte"/>, <see cref="ushort"/>, <see cref="uint"/> or <see cref="ulong"/>.</typeparam>
    /// <param name="bar">Which BAR.</param>
    /// <param name="offset">Byte offset, a multiple of the size.</param>
    /// <param name="testMemory">As in <see cref="TryReadRegister{T}"/>.</param>
    /// <param name="value">The value.</param>
    /// <param name="fault">As in <see cref="TryReadRegister{T}"/>.</param>
    public bool TryWriteRegister<T>(int bar, ulong offset, bool testMemory, T value, out Fault fault)
        where T : unmanaged, IBinaryInteger<T>, IUnsignedNumber<T>
    {
        Span<byte> bytes = stackalloc byte[value.GetByteCount()];
        value.WriteLittleEndian(bytes);
        if (!IsRegister(bar, offset, bytes.Length, testMemory, out fault))
            return false;
        return _bars[bar].TryWrite(offset, bytes, out fault);
    }

    /// <summary>
    /// The function was reset, by whatever way: at open and close, by the user's RESET, by config space. A driver that keeps state of it sets
    /// that back here.
    /// </summary>
    protected virtual void OnReset()
    {
    }

    /// <summary>
    /// Whether the user has accesses to a BAR enabled: what a doorbell there stands for counts only then. A driver that answers for a BAR by itself says it for that
    /// one, and calls <see cref="SyncDoorbells"/> when it may have changed. Any thread.
    /// </summary>
    /// <param name="region">Region index of the BAR.</param>
    protected virtual bool IsEnabled(uint region) =>
        region < (uint)_bars.Length && (_bars[region].Bar.Kind == PciBarKind.Io ? _config?.IsIoEnabled : _config?.IsMemoryEnabled) == true;

    /// <summary>Brings the doorbells in line with <see cref="IsEnabled"/>; writes to config space do.</summary>
    protected void SyncDoorbells() => _doorbells.Sync(PciBar.Rom, _isEnabledNow);

    /// <summary>Lets signals of an eventfd stand for writes to a register of the function, whichever register of its regions a driver shows for it.</summary>
    /// <param name="region">Region index of what the user writes.</param>
    /// <param name="doorbell">What the user writes.</param>
    /// <param name="place">What of the function it stands for, one of its doorbells.</param>
    /// <param name="signal">The eventfd; null takes it off.</param>
    /// <param name="fault">What the function says.</param>
    protected bool TryAttachDoorbell(uint region, in VfioDoorbell doorbell, in PciDoorbell place, EventFd? signal, out Fault fault) =>
        _doorbells.TrySet(region, doorbell, place, signal, out fault);

    // Config space belongs to the thread of the user's calls.
    private void NoteReset(VfioPciConfig config)
    {
        if (!_wasReset)
            return;
        _wasReset = false;
        config.TakeCommand();
    }

    private bool TryResetFunction(out Fault fault)
    {
        var done = Device.TryReset(out fault);
        // Also when the function has no reset: what a driver keeps is of the user before.
        OnReset();
        return done;
    }

    private bool IsAccessible(uint region, bool testMemory, out Fault fault)
    {
        fault = Fault.None;
        if (Device.IsGone)
            return Refuse(Errno.EIO, "the function is gone", out fault);
        if (region >= (uint)_bars.Length || _bars[region].Bar is not { Size: > 0 } bar)
            return Refuse(Errno.EINVAL, "there is no such region", out fault);
        if (!testMemory || (bar.Kind == PciBarKind.Io ? _config?.IsIoEnabled : _config?.IsMemoryEnabled) == true)
            return true;
        return Refuse(Errno.EIO, "the user has that kind of access disabled in the command register", out fault);
    }

    private bool IsRegister(int bar, ulong offset, int size, bool testMemory, out Fault fault)
    {
        if (bar is < 0 or >= PciBar.Rom)
            return Refuse(Errno.EINVAL, "there is no such region", out fault);
        if (!IsAccessible((uint)bar, testMemory, out fault))
            return false;
        return (offset & (ulong)(size - 1)) == 0 || Refuse(Errno.EINVAL, "the register is not aligned", out fault);
    }

    private List<VfioRegionArea> GetAreas(int bar, ulong size)
    {
        var areas = new List<VfioRegionArea>();
        var table = _msixTable;
        foreach (var area in Device.GetRegion(bar).Areas)
        {
            if (area.Size == 0 || area.Offset > size || area.Size > size - area.Offset)
                continue;
            // The rest of a page may be anything.
            if (!area.IsPeerMemory && (area.Offset % PageSize != 0 || area.Size % PageSize != 0))
                continue;
            var end = area.Offset + area.Size;
            if (table is not { } t || t.Bar != bar)
            {
                areas.Add(new VfioRegionArea(area.Offset, area.Size, area.File, area.FileOffset));
                continue;
            }
            // Around the pages that the table lies in.
            var first = t.Offset & ~(PageSize - 1);
            var last = (t.Offset + t.Size + PageSize - 1) & ~(PageSize - 1);
            AddPart(area.Offset, Math.Min(end, first));
            AddPart(Math.Max(area.Offset, last), end);

            void AddPart(ulong from, ulong to)
            {
                if (from < to)
                    areas.Add(new VfioRegionArea(from, to - from, area.File, area.FileOffset + (from - area.Offset)));
            }
        }
        return areas;
    }

    private bool MeetsMsixTable(uint region, ulong offset, int length) =>
        _msixTable is { } table && table.Bar == region && offset < table.Offset + table.Size && offset + (ulong)length > table.Offset;

    // A register lies in the table with all its bytes, or with none: both are aligned.
    private bool IsInMsixTable(uint region, ulong offset, out int entry)
    {
        entry = 0;
        if (_msixTable is not { } table || table.Bar != region || offset < table.Offset || offset - table.Offset >= table.Size)
            return false;
        entry = (int)(offset - table.Offset);
        return true;
    }

    private void SetPasidEnabled(bool enabled)
    {
        // That of a virtual function is its physical function's, whose driver sets it.
        if (_pasid == 0 || Device.PhysicalFunction is not null || Device.IsGone)
            return;
        var control = Device.ReadConfig16(_pasid + PasidControl);
        var wanted = (ushort)(enabled ? control | 1 : control & ~1);
        if (wanted != control)
            Device.WriteConfig16(_pasid + PasidControl, wanted);
    }

    private static bool Refuse(Errno errno, string why, out Fault fault)
    {
        fault = new Fault(errno, why);
        return false;
    }
}
