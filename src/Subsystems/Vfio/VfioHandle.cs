using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Subsystems.Vfio;

/// <summary>
/// A device that a user has open (Linux: the device's descriptor). It checks what the user asks, so that ops get only what makes sense, and
/// it goes dead when the device is taken away: everything is ENODEV then. Calls may come from any thread; the driver sees one at a time.
/// </summary>
public sealed class VfioHandle : IDisposable
{
    // PASIDs have 20 bits; 0 is what requests without one have.
    private const uint MaxPasid = (1 << 20) - 1;
    private const string TakenWhileOpened = "the device was taken away while it was opened";

    private readonly Lock _gate = new();
    private readonly Lock _callbackLock = new();
    private readonly IVfioDeviceOps _ops;
    private readonly VfioOwner _user;
    private VfioRegionInfo?[] _regions = [];
    private VfioIrqInfo?[] _irqs = [];
    private VfioDeviceInfo _info;
    private Action<bool>? _requested;
    private GuardedMigration? _migration;
    private GuardedDmaLogging? _dmaLogging;
    private int _depth;
    private volatile bool _isDead;
    private volatile bool _isRevoked;
    private bool _isOpen;
    private bool _isTold;

    internal VfioHandle(VfioDevice device, VfioOwner user)
    {
        Device = device;
        _user = user;
        _ops = device.Ops;
    }

    /// <summary>The device.</summary>
    public VfioDevice Device { get; }

    /// <summary>Who opened it.</summary>
    public string User => _user.Name;

    /// <summary>Whether the device was taken away.</summary>
    public bool IsRevoked => _isRevoked;

    /// <summary>Whether it was closed, or taken away.</summary>
    internal bool IsClosed => _isDead;

    /// <summary>What the device is, as it was when it was opened.</summary>
    public VfioDeviceInfo Info => _info;

    /// <summary>The device's migration, or null. Once the device is closed or taken away, its calls answer ENODEV.</summary>
    public IVfioMigrationOps? Migration => _migration;

    /// <summary>The device's log of written pages, or null. Once the device is closed or taken away, its calls answer ENODEV.</summary>
    public IVfioDmaLoggingOps? DmaLogging => _dmaLogging;

    /// <summary>What a region is. The driver is asked once.</summary>
    /// <param name="index">Region index.</param>
    /// <param name="info">What it is.</param>
    /// <param name="fault">EINVAL: no such region; ENODEV.</param>
    public bool TryGetRegionInfo(uint index, out VfioRegionInfo? info, out Fault fault)
    {
        info = null;
        if (!TryEnter(out fault))
            return false;
        try
        {
            if (index >= (uint)_regions.Length)
                return Refuse(Errno.EINVAL, "there is no region of that index", out fault);
            info = RegionInGate(index);
            return true;
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>What an interrupt index is. The driver is asked once.</summary>
    /// <param name="index">Interrupt index.</param>
    /// <param name="info">What it is.</param>
    /// <param name="fault">EINVAL: no such index; ENODEV.</param>
    public bool TryGetIrqInfo(uint index, out VfioIrqInfo info, out Fault fault)
    {
        info = default;
        if (!TryEnter(out fault))
            return false;
        try
        {
            if (index >= (uint)_irqs.Length)
                return Refuse(Errno.EINVAL, "there is no interrupt index of that number", out fault);
            info = IrqInGate(index);
            return true;
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>Reads a region.</summary>
    /// <param name="region">Region index.</param>
    /// <param name="offset">First byte.</param>
    /// <param name="destination">Where to.</param>
    /// <param name="fault">EINVAL: outside, or not readable; EIO; ENODEV.</param>
    public bool TryRead(uint region, ulong offset, Span<byte> destination, out Fault fault)
    {
        if (!TryEnter(out fault))
            return false;
        try
        {
            if (!IsAccessible(region, offset, destination.Length, VfioRegionFlags.Read, isRangeChecked: !_ops.ChecksRange, out fault))
                return false;
            return destination.IsEmpty || _ops.TryRead(region, offset, destination, out fault);
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>Writes a region.</summary>
    /// <param name="region">Region index.</param>
    /// <param name="offset">First byte.</param>
    /// <param name="source">Where from.</param>
    /// <param name="fault">As <see cref="TryRead"/>.</param>
    public bool TryWrite(uint region, ulong offset, ReadOnlySpan<byte> source, out Fault fault)
    {
        if (!TryEnter(out fault))
            return false;
        try
        {
            if (!IsAccessible(region, offset, source.Length, VfioRegionFlags.Write, isRangeChecked: !_ops.ChecksRange, out fault))
                return false;
            return source.IsEmpty || _ops.TryWrite(region, offset, source, out fault);
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>Whether a write would be given to the driver: for who has several writes to make, or none.</summary>
    /// <param name="region">Region index.</param>
    /// <param name="offset">First byte.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="fault">EINVAL: outside, or not writable; ENODEV.</param>
    public bool CanWrite(uint region, ulong offset, int length, out Fault fault)
    {
        if (!TryEnter(out fault))
            return false;
        try
        {
            // A question, and no access: nobody behind is asked.
            return IsAccessible(region, offset, length, VfioRegionFlags.Write, isRangeChecked: true, out fault);
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>Sets interrupts up; the request is checked by the rules of VFIO_DEVICE_SET_IRQS first.</summary>
    /// <param name="set">What is asked.</param>
    /// <param name="fault">EINVAL: flags, range, number of eventfds, an action that the index does not have; ENODEV.</param>
    public bool TrySetIrqs(in VfioIrqSet set, out Fault fault)
    {
        if (!TryEnter(out fault))
            return false;
        try
        {
            return set.Index < (uint)_irqs.Length
                ? VfioIrqRules.IsValid(set, IrqInGate(set.Index), out fault) && _ops.TrySetIrqs(set, out fault)
                : Refuse(Errno.EINVAL, "there is no interrupt index of that number", out fault);
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>Resets the device.</summary>
    /// <param name="fault">EOPNOTSUPP: it cannot be reset; ENODEV.</param>
    public bool TryReset(out Fault fault)
    {
        if (!TryEnter(out fault))
            return false;
        try
        {
            return _info.CanReset ? _ops.TryReset(out fault) : Refuse(Errno.EOPNOTSUPP, "the device cannot be reset", out fault);
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>Lets the device reach an address space; null detaches.</summary>
    /// <param name="space">The address space.</param>
    /// <param name="pasid">Null for requests without a PASID.</param>
    /// <param name="fault">EBUSY: the DMA belongs to another; EINVAL: no PASID of 1 to 2^20-1; ENODEV.</param>
    public bool TryAttach(IoAddressSpace? space, uint? pasid, out Fault fault)
    {
        if (!TryEnter(out fault))
            return false;
        try
        {
            return pasid is 0 or > MaxPasid
                ? Refuse(Errno.EINVAL, "a PASID is a number from 1 to 2^20-1", out fault)
                : _ops.TryAttach(space, pasid, out fault);
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>Doorbells of a region; none when there is no such region, or the device was taken away.</summary>
    /// <param name="region">Region index.</param>
    public IReadOnlyList<VfioDoorbell> GetDoorbells(uint region)
    {
        if (!TryEnter(out _))
            return [];
        try
        {
            return region < (uint)_regions.Length ? _ops.GetDoorbells(region) : [];
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>Lets signals of an eventfd stand for writes to a doorbell.</summary>
    /// <param name="region">Region index.</param>
    /// <param name="doorbell">The doorbell.</param>
    /// <param name="signal">The eventfd; null detaches.</param>
    /// <param name="fault">EINVAL: no such region; ENOENT: no such doorbell; EOPNOTSUPP; ENODEV.</param>
    public bool TryAttachDoorbell(uint region, VfioDoorbell doorbell, EventFd? signal, out Fault fault)
    {
        if (!TryEnter(out fault))
            return false;
        try
        {
            return region < (uint)_regions.Length
                ? _ops.TryAttachDoorbell(region, doorbell, signal, out fault)
                : Refuse(Errno.EINVAL, "there is no region of that index", out fault);
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>
    /// Called on a thread of the control plane when the device's driver wants the device back (again and again), or when the device was taken
    /// away (once, with <c>revoked</c>): the handle is dead then and only wants to be disposed. It must not block or wait for the handle. Set on a handle whose
    /// device was taken away already, the handler is called at once.
    /// </summary>
    /// <param name="requested">The handler, told whether the device is taken away already; null takes it off.</param>
    public void SetRequestCallback(Action<bool>? requested)
    {
        bool late;
        lock (_callbackLock)
        {
            _requested = requested;
            late = _isRevoked;
        }
        if (late)
            requested?.Invoke(true);
    }

    /// <summary>Closes the device: the driver undoes all that the user set up. Waits for a call that is under way; from within one, it takes effect at that call's end.</summary>
    public void Dispose() => CloseNowOrLater();

    /// <summary>Asks the driver to open the device.</summary>
    internal bool TryStart(out Fault fault)
    {
        lock (_gate)
        {
            var isStarted = false;
            _depth++;
            try
            {
                if (_isDead)
                    return Refuse(Errno.ENODEV, TakenWhileOpened, out fault);
                if (!_ops.TryOpen(_user, out fault))
                    return false;
                _isOpen = true;
                _info = _ops.Info;
                _regions = new VfioRegionInfo?[_info.Regions];
                _irqs = new VfioIrqInfo?[_info.Interrupts];
                _migration = _ops.Migration is { } migration ? new GuardedMigration(this, migration) : null;
                _dmaLogging = _ops.DmaLogging is { } logging ? new GuardedDmaLogging(this, logging) : null;
                _isTold = Device.MayLog();
                if (_isTold)
                    VfioLog.Opened(Device.Log, Device.Name, Device.Label, User);
                // It may have been taken away from within the driver's open.
                isStarted = !_isDead;
                return isStarted || Refuse(Errno.ENODEV, TakenWhileOpened, out fault);
            }
            catch (VirtbusException e)
            {
                fault = new Fault(e.Errno, e.Message);
                return false;
            }
            finally
            {
                _depth--;
                if (!isStarted)
                    GiveUpInGate();
            }
        }
    }

    /// <summary>The device is taken away. When this returns, the driver has closed it, unless it is called from within a call of the user.</summary>
    internal void Revoke()
    {
        lock (_callbackLock)
        {
            if (_isRevoked)
                return;
            _isRevoked = true;
        }
        _isDead = true;
        // First, so that a transport lets go of its user: the driver's close may wait for what a peer has to answer.
        TellRequested(revoked: true);
        CloseNowOrLater();
    }

    internal void TellRequested(bool revoked)
    {
        Action<bool>? requested;
        lock (_callbackLock)
            requested = _requested;
        try
        {
            requested?.Invoke(revoked);
        }
        catch (Exception e)
        {
            VfioLog.RequestFailed(Device.Log, Device.Name, Device.Label, e);
        }
    }

    private void CloseNowOrLater()
    {
        _isDead = true;
        lock (_gate)
        {
            // A call of this very thread is under way in the driver: its end closes.
            if (_depth == 0)
                CloseInGate();
        }
    }

    private void CloseInGate()
    {
        if (!_isOpen)
            return;
        _isOpen = false;
        try
        {
            _ops.Close();
        }
        catch (Exception e)
        {
            VfioLog.CloseFailed(Device.Log, Device.Name, Device.Label, e);
        }
        // Told of when its opening was, so that no line speaks of a user that seems to be there still.
        if (!Device.MayLog(_isTold))
        {
            Device.Closed();
            return;
        }
        if (_isRevoked)
            VfioLog.Revoked(Device.Log, Device.Name, Device.Label, User);
        else
            VfioLog.Closed(Device.Log, Device.Name, Device.Label, User);
        Device.Closed();
    }

    private void GiveUpInGate()
    {
        _isDead = true;
        if (_isOpen)
            CloseInGate();
        else
            Device.Closed();
    }

    internal bool TryEnter(out Fault fault)
    {
        _gate.Enter();
        if (_isDead)
        {
            _gate.Exit();
            return Refuse(Errno.ENODEV, "the device was closed, or taken away", out fault);
        }
        _depth++;
        fault = Fault.None;
        return true;
    }

    internal void Leave()
    {
        try
        {
            if (--_depth == 0 && _isDead)
                CloseInGate();
        }
        finally
        {
            _gate.Exit();
        }
    }

    private VfioRegionInfo RegionInGate(uint index) => _regions[index] ??= _ops.GetRegionInfo(index);

    private VfioIrqInfo IrqInGate(uint index) => _irqs[index] ??= _ops.GetIrqInfo(index);

    private bool IsAccessible(uint region, ulong offset, int length, VfioRegionFlags wanted, bool isRangeChecked, out Fault fault)
    {
        if (region >= (uint)_regions.Length)
            return Refuse(Errno.EINVAL, "there is no region of that index", out fault);
        var info = RegionInGate(region);
        if ((info.Flags & wanted) == VfioRegionFlags.None)
            return Refuse(Errno.EINVAL, "the region does not allow that access", out fault);
        if (isRangeChecked && (offset > info.Size || (ulong)length > info.Size - offset))
            return Refuse(Errno.EINVAL, "the access leaves the region", out fault);
        fault = Fault.None;
        return true;
    }

    internal static bool Refuse(Errno errno, string why, out Fault fault)
    {
        fault = new Fault(errno, why);
        return false;
    }
}
