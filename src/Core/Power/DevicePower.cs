using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>
/// Power state of one device: what system sleep reached, and the runtime counters. Runtime power management is off until the
/// device's driver enables it. A use of a device is a use of its parent, so parents wake first and sleep last.
/// </summary>
/// <remarks>Safe from any thread. Runtime callbacks of one device never overlap.</remarks>
public sealed class DevicePower
{
    private readonly Device _device;
    private readonly SemaphoreSlim _turn = new(1, 1);
    private int _usage;
    private int _activeChildren;
    private long _since;
    private TimeSpan _active;
    private TimeSpan _suspended;
    private bool _forbidden;
    private bool _heldForRemove;
    private bool _holdsParent;

    internal DevicePower(Device device) => _device = device;

    /// <summary>True from the suspend callback to the resume callback of system sleep.</summary>
    public bool IsSuspended => Phase >= SleepPhase.Suspended;

    /// <summary>How many users keep the device awake.</summary>
    public int RuntimeUsage => Volatile.Read(ref _usage);

    /// <summary>How many children are awake.</summary>
    public int RuntimeActiveChildren => Volatile.Read(ref _activeChildren);

    /// <summary>Runtime state.</summary>
    public RuntimeStatus RuntimeStatus { get; private set; } = RuntimeStatus.Unsupported;

    /// <summary>True when the user forbade runtime sleep (<c>power/control</c> is <c>on</c>).</summary>
    public bool IsRuntimeForbidden => _forbidden;

    /// <summary>Time spent awake since runtime power management was enabled.</summary>
    public TimeSpan RuntimeActiveTime => Total(RuntimeStatus.Active, _active);

    /// <summary>Time spent asleep since runtime power management was enabled.</summary>
    public TimeSpan RuntimeSuspendedTime => Total(RuntimeStatus.Suspended, _suspended);

    internal SleepPhase Phase { get; set; }

    /// <summary>True while a runtime transition of the device goes on.</summary>
    internal bool IsInTurn => _turn.CurrentCount == 0;

    /// <summary>Turns runtime power management on; called by a driver in its probe. It is turned off when the driver is unbound.</summary>
    /// <param name="active">True when the device is awake now.</param>
    public void EnableRuntime(bool active)
    {
        if (RuntimeStatus != RuntimeStatus.Unsupported)
            return;
        _since = Now();
        _active = _suspended = TimeSpan.Zero;
        RuntimeStatus = active ? RuntimeStatus.Active : RuntimeStatus.Suspended;
        if (active)
            AdjustParent(1);
    }

    /// <summary>Takes a use of the device and wakes it, parents and runtime suppliers first. Uses outlive a driver: each is given up by who took it.</summary>
    /// <param name="cancellationToken">Ends the wait for a running callback.</param>
    /// <exception cref="VirtbusException">EINVAL: the device is in the error state; or what the driver's callback answers. No use is taken then.</exception>
    public async ValueTask RuntimeGetAsync(CancellationToken cancellationToken = default)
    {
        await _turn.WaitAsync(cancellationToken);
        try
        {
            await GetInTurnAsync(cancellationToken);
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Gives a use up; the device sleeps when it was the last and no child is awake.</summary>
    /// <exception cref="VirtbusException">EINVAL: no use was taken; or what the driver's callback answers, and the use is given up all the same.</exception>
    public async ValueTask RuntimePutAsync()
    {
        await _turn.WaitAsync();
        try
        {
            await PutInTurnAsync();
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>
    /// Lets the device sleep when idle (<c>auto</c>) or keeps it awake (<c>on</c>), which counts as a use. <c>auto</c> takes effect whatever
    /// became of that use, and whether or not the device then goes to sleep.
    /// </summary>
    /// <param name="allowed">True for <c>auto</c>.</param>
    /// <exception cref="VirtbusException">When kept awake: the device does not wake, as <see cref="RuntimeGetAsync"/>; nothing is changed then.</exception>
    public async ValueTask AllowRuntimeAsync(bool allowed)
    {
        await _turn.WaitAsync();
        try
        {
            if (allowed != _forbidden)
                return;
            if (!allowed)
                await GetInTurnAsync(CancellationToken.None);
            _forbidden = !allowed;
            if (allowed)
                await PutForCoreInTurnAsync();
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Takes a use for the core, which goes on without it when the device does not wake.</summary>
    internal async ValueTask<bool> TryHoldAsync(string purpose)
    {
        try
        {
            await RuntimeGetAsync();
            return true;
        }
        catch (Exception e)
        {
            FabricLog.PowerFailed(_device.Fabric!.Log, _device.Name, "runtime resume for " + purpose, e.Message);
            return false;
        }
    }

    /// <summary>Gives up uses of the core's.</summary>
    internal async ValueTask LetGoAsync(int uses = 1)
    {
        for (; uses > 0; uses--)
        {
            await _turn.WaitAsync();
            try
            {
                await PutForCoreInTurnAsync();
            }
            finally
            {
                _turn.Release();
            }
        }
    }

    /// <summary>A driver's remove runs on an awake device below an awake parent; no runtime callback runs beside it or after it.</summary>
    internal async ValueTask HoldForRemoveAsync()
    {
        await _turn.WaitAsync();
        try
        {
            if (RuntimeStatus is RuntimeStatus.Active or RuntimeStatus.Suspended && !_device.IsGone)
            {
                try
                {
                    await GetInTurnAsync(CancellationToken.None);
                    _heldForRemove = true;
                }
                catch (Exception e)
                {
                    FabricLog.PowerFailed(_device.Fabric!.Log, _device.Name, "runtime resume before unbind", e.Message);
                }
            }
            await TurnOffAsync();
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>The driver is gone, or its probe failed: runtime power management is off until the next driver enables it.</summary>
    internal async ValueTask DisableRuntimeAsync()
    {
        await _turn.WaitAsync();
        try
        {
            await TurnOffAsync();
            if (_heldForRemove)
            {
                _heldForRemove = false;
                await PutForCoreInTurnAsync();
            }
        }
        finally
        {
            _turn.Release();
        }
    }

    private async ValueTask TurnOffAsync()
    {
        var wasActive = RuntimeStatus == RuntimeStatus.Active;
        RuntimeStatus = RuntimeStatus.Unsupported;
        if (!wasActive)
            return;
        AdjustParent(-1);
        if (_device.Parent is { } parent)
            await parent.Power.IdleAsync();
    }

    /// <summary>The device leaves the tree: uses that are left hold nothing above it any more.</summary>
    internal async ValueTask ForgetUsesAsync()
    {
        await _turn.WaitAsync();
        try
        {
            _forbidden = false;
            if (_usage > 0)
            {
                _usage = 0;
                await PutNeededAsync();
            }
        }
        finally
        {
            _turn.Release();
        }
    }

    private async ValueTask IdleAsync()
    {
        await _turn.WaitAsync();
        try
        {
            if (_usage == 0)
                await SleepIfIdleAsync();
        }
        catch (Exception e)
        {
            FabricLog.PowerFailed(_device.Fabric!.Log, _device.Name, "runtime suspend", e.Message);
        }
        finally
        {
            _turn.Release();
        }
    }

    private async ValueTask GetInTurnAsync(CancellationToken cancellationToken)
    {
        if (RuntimeStatus == RuntimeStatus.Error)
            throw new VirtbusException(Errno.EINVAL, $"Device {_device.Name} is in a runtime power error. Unbind its driver and bind it again.");
        if (_usage == 0)
            await GetNeededAsync(cancellationToken);
        _usage++;
        if (RuntimeStatus != RuntimeStatus.Suspended)
            return;
        try
        {
            await RunCallbackAsync(ops => ops.RuntimeResumeAsync(_device));
        }
        catch
        {
            if (--_usage == 0)
                await PutNeededAsync();
            throw;
        }
        Account(RuntimeStatus.Active);
        AdjustParent(1);
    }

    private async ValueTask PutInTurnAsync()
    {
        if (_usage == 0)
            throw new VirtbusException(Errno.EINVAL, $"Device {_device.Name} has no runtime use to give up.");
        if (--_usage > 0)
            return;
        try
        {
            await SleepIfIdleAsync();
        }
        finally
        {
            await PutNeededAsync();
        }
    }

    // Somebody may have given up one use too many, and the core's with it: the count stays 0 then, and what goes on here goes on.
    private async ValueTask PutForCoreInTurnAsync()
    {
        if (_usage == 0)
        {
            FabricLog.UsageUnderflow(_device.Fabric!.Log, _device.Name);
            return;
        }
        try
        {
            await PutInTurnAsync();
        }
        catch (Exception e)
        {
            FabricLog.PowerFailed(_device.Fabric!.Log, _device.Name, "runtime suspend", e.Message);
        }
    }

    private async ValueTask SleepIfIdleAsync()
    {
        if (RuntimeStatus != RuntimeStatus.Active || RuntimeActiveChildren > 0)
            return;
        await RunCallbackAsync(ops => ops.RuntimeSuspendAsync(_device));
        Account(RuntimeStatus.Suspended);
        AdjustParent(-1);
    }

    private async ValueTask RunCallbackAsync(Func<IPowerOps, ValueTask> callback)
    {
        if (PowerTransitions.OpsOf(_device) is not { } ops)
            return;
        try
        {
            await callback(ops);
        }
        catch (VirtbusException e) when (e.Errno is Errno.EBUSY or Errno.EAGAIN)
        {
            // The driver says "not now"; that is no error state.
            throw;
        }
        catch
        {
            if (RuntimeStatus == RuntimeStatus.Active)
                AdjustParent(-1);
            Account(RuntimeStatus.Error);
            throw;
        }
    }

    private async ValueTask GetNeededAsync(CancellationToken cancellationToken)
    {
        try
        {
            if (_device.Parent is { } parent)
            {
                await parent.Power.RuntimeGetAsync(cancellationToken);
                _holdsParent = true;
            }
            foreach (var link in _device.Links?.Suppliers ?? [])
            {
                if (!link.Flags.HasFlag(DeviceLinkFlags.PmRuntime))
                    continue;
                await link.Supplier.Power.RuntimeGetAsync(cancellationToken);
                // What a link holds is given back with the consumer's last use or, when the link goes first, by who removes it.
                if (!link.TryKeepUse())
                    await link.Supplier.Power.LetGoAsync();
            }
        }
        catch
        {
            await PutNeededAsync();
            throw;
        }
    }

    private async ValueTask PutNeededAsync()
    {
        foreach (var link in (_device.Links?.Suppliers ?? []).Reverse())
            await link.Supplier.Power.LetGoAsync(link.TakeUses());
        if (!_holdsParent)
            return;
        _holdsParent = false;
        await _device.Parent!.Power.LetGoAsync();
    }

    private void AdjustParent(int by)
    {
        if (_device.Parent is { } parent)
            Interlocked.Add(ref parent.Power._activeChildren, by);
    }

    private void Account(RuntimeStatus status)
    {
        (_active, _suspended) = (RuntimeActiveTime, RuntimeSuspendedTime);
        _since = Now();
        RuntimeStatus = status;
    }

    private TimeSpan Total(RuntimeStatus status, TimeSpan before) =>
        RuntimeStatus == status && _device.Fabric is { } fabric ? before + fabric.Time.GetElapsedTime(_since) : before;

    private long Now() => _device.Fabric?.Time.GetTimestamp() ?? 0;
}
