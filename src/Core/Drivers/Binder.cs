using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>How an attempt to attach a device ended.</summary>
internal enum AttachResult
{
    /// <summary>No driver serves the device.</summary>
    NoDriver,
    /// <summary>The device is bound now.</summary>
    Bound,
    /// <summary>The device was bound before.</summary>
    AlreadyBound,
    /// <summary>The device waits for a supplier, or a probe asked to be tried again.</summary>
    Deferred,
    /// <summary>The attempt is made when a device above has finished its own probe or sleep.</summary>
    Parked,
    /// <summary>The attempt was started beside the caller.</summary>
    Started,
    /// <summary>Drivers matched, and every probe failed.</summary>
    Failed,
    /// <summary>The device is gone.</summary>
    Gone,
}

/// <summary>What came of an attach, with the error of the last failed probe.</summary>
internal readonly record struct AttachOutcome(AttachResult Result, Exception? Error = null);

/// <summary>Binds devices to drivers and lets them go. Everything runs in the device's transition; nothing of a driver runs under a lock.</summary>
internal sealed class Binder(Fabric fabric)
{
    // Guarded by the fabric's gate.
    private readonly LinkedList<Device> _deferred = new();
    private readonly Queue<Device> _retry = new();
    private readonly List<Device> _parked = [];
    private long _deferredTrigger;
    private bool _retrying;

    /// <summary>The devices that wait, with the reason, in the order in which they began to wait.</summary>
    public IReadOnlyList<Device> Deferred
    {
        get
        {
            lock (fabric.Gate)
                return [.. _deferred];
        }
    }

    /// <summary>Finds a driver for a device, and for those below it that waited for its probe.</summary>
    public async ValueTask<AttachOutcome> AttachAsync(Device device, Driver? only = null, bool mayStart = false)
    {
        var outcome = await fabric.Transitions.RunAsync(device, (this, only, mayStart), static (d, a) => a.Item1.AttachInTransitionAsync(d, a.only, a.mayStart));
        await AttachPendingAsync(device);
        return outcome;
    }

    /// <summary>Attaches several devices: siblings side by side, those of force-synchronous drivers one after the other.</summary>
    public async ValueTask AttachManyAsync(IReadOnlyList<Device> devices, Driver? only = null)
    {
        List<Task>? running = null;
        foreach (var device in devices)
        {
            var attach = AttachAsync(device, only, mayStart: true);
            if (attach.IsCompletedSuccessfully)
                continue;
            if (IsForceSynchronous(device, only))
                await attach;
            else
                (running ??= []).Add(attach.AsTask());
        }
        if (running is not null)
            await Task.WhenAll(running);
    }

    /// <summary>Makes the attempts that waited for the end of a suspend.</summary>
    public async ValueTask AttachParkedAsync()
    {
        Device[] parked;
        lock (fabric.Gate)
        {
            parked = [.. _parked];
            _parked.Clear();
        }
        await AttachManyAsync(parked);
    }

    /// <summary>Unbinds a device; consumers first.</summary>
    /// <returns>False when the device was not bound, or not to the driver named.</returns>
    public ValueTask<bool> UnbindAsync(Device device, Driver? expected = null) =>
        fabric.Transitions.RunAsync(device, (this, expected), static (d, a) => a.Item1.UnbindInTransitionAsync(d, a.expected));

    public async ValueTask<bool> UnbindInTransitionAsync(Device device, Driver? expected)
    {
        Driver? driver;
        List<Device>? consumers = null;
        lock (fabric.Gate)
        {
            driver = device.Driver;
            if (driver is null || (expected is not null && driver != expected))
                return false;
            // From here on no consumer can begin a probe, so the list is complete.
            device.Binding = driver.UnbindingBinding;
            foreach (var link in device.Links?.Consumers ?? [])
            {
                if (link.IsManaged && link.Consumer.Binding.State != BindingState.Unbound)
                    (consumers ??= []).Add(link.Consumer);
            }
        }
        if (consumers is not null)
        {
            foreach (var consumer in consumers.OrderByDescending(c => c.Sequence))
                await UnbindAsync(consumer);
        }
        if (device.PowerState is { } power)
            await power.WakeForRemoveAsync();
        try
        {
            await fabric.Scheduler.InterleaveAsync();
            await driver.RemoveAsync(device);
        }
        catch (Exception e)
        {
            FabricLog.RemoveFailed(fabric.Log, device.Name, driver.Name, e);
        }
        await LetGoAsync(device, driver);
        lock (fabric.Gate)
        {
            SetUnbound(device);
            RemoveLinksAtUnbind(device);
        }
        fabric.EmitFor(device, UeventAction.Unbind);
        return true;
    }

    /// <summary>Forgets a device that leaves the tree.</summary>
    public void ForgetInGate(Device device)
    {
        RemoveDeferred(device);
        _parked.Remove(device);
    }

    private async ValueTask<AttachOutcome> AttachInTransitionAsync(Device device, Driver? only, bool mayStart)
    {
        if (device.Bus is not { } bus)
            return new(AttachResult.NoDriver);
        lock (fabric.Gate)
        {
            if (device.State != DeviceState.Added)
                return new(AttachResult.Gone);
            if (device.Driver is not null)
                return new(AttachResult.AlreadyBound);
            // Parents before children: a device found during its parent's probe is probed when that probe has ended.
            for (var above = device.Parent; above is not null; above = above.Parent)
            {
                if (above.Binding.State == BindingState.Probing)
                {
                    (above.PendingDescendants ??= []).Add(device);
                    return new(AttachResult.Parked);
                }
            }
            if (PowerTransitions.SleepingSelfOrAncestor(device) is not null)
            {
                _parked.Add(device);
                return new(AttachResult.Parked);
            }
        }
        var outcome = new AttachOutcome(AttachResult.NoDriver);
        Driver[] candidates = only is null ? bus.Candidates(device) : [only];
        foreach (var driver in candidates)
        {
            if (TryMatch(bus, device, driver) is not { } id)
                continue;
            if (mayStart && driver.ProbeType == ProbeType.PreferAsynchronous)
            {
                fabric.StartWork("asynchronous probe of " + device.Name, () => AttachAsync(device, only).AsTask());
                return new(AttachResult.Started);
            }
            var one = await ProbeAsync(device, driver, id);
            if (one.Result is AttachResult.Bound or AttachResult.Gone)
                return one;
            if (outcome.Result != AttachResult.Deferred && one.Result != AttachResult.NoDriver)
                outcome = one;
            // A missing supplier holds back every driver; a driver that defers leaves the way free for the next one.
            if (one is { Result: AttachResult.Deferred, Error: null })
                return one;
        }
        return outcome;
    }

    private async ValueTask<AttachOutcome> ProbeAsync(Device device, Driver driver, DeviceId id)
    {
        await fabric.Scheduler.InterleaveAsync();
        var bus = device.Bus!;
        long trigger;
        CancellationTokenSource cancellation;
        lock (fabric.Gate)
        {
            if (device.State != DeviceState.Added)
                return new(AttachResult.Gone);
            if (!driver.IsRegistered)
                return new(AttachResult.NoDriver);
            if (MissingSupplier(device) is { } supplier)
            {
                AddDeferred(device, $"supplier {supplier.Name} not ready");
                return new(AttachResult.Deferred);
            }
            trigger = _deferredTrigger;
            device.Binding = driver.ProbingBinding;
            DeviceList.Remove(device);
            driver.Bound.Add(device);
            device.ProbeCancellation = cancellation = new CancellationTokenSource();
        }
        Exception? error = null;
        try
        {
            await ConfigureAndProbeAsync(bus, device, driver, id, cancellation.Token);
            // A device that vanished during its probe is not bound, whatever the probe made of it.
            if (cancellation.IsCancellationRequested)
                await RemoveAfterLateProbeAsync(device, driver);
        }
        catch (Exception e)
        {
            error = e;
        }
        if (error is not null)
            return FinishFailed(device, driver, error, trigger);
        lock (fabric.Gate)
        {
            device.ProbeCancellation = null;
            if (cancellation.IsCancellationRequested)
            {
                SetUnbound(device);
                return new(AttachResult.Gone);
            }
            device.Binding = driver.BoundBinding;
            RemoveDeferred(device);
            TriggerDeferredInGate(device);
        }
        fabric.EmitFor(device, UeventAction.Bind);
        return new(AttachResult.Bound);
    }

    private static async ValueTask ConfigureAndProbeAsync(Bus bus, Device device, Driver driver, DeviceId id, CancellationToken token)
    {
        await bus.ConfigureAsync(device, driver);
        try
        {
            var domain = bus.GetPowerDomain(device);
            if (domain is not null)
                await domain.AttachAsync(device);
            try
            {
                await driver.ProbeAsync(device, id, token);
            }
            catch
            {
                // What the probe acquired goes before what it stood on.
                await device.Fabric!.Binder.ReleaseResourcesAsync(device);
                if (domain is not null)
                    await domain.DetachAsync(device);
                throw;
            }
        }
        catch
        {
            await bus.UnconfigureAsync(device, driver);
            throw;
        }
    }

    private async ValueTask RemoveAfterLateProbeAsync(Device device, Driver driver)
    {
        try
        {
            await driver.RemoveAsync(device);
        }
        catch (Exception e)
        {
            FabricLog.RemoveFailed(fabric.Log, device.Name, driver.Name, e);
        }
        await LetGoAsync(device, driver);
    }

    private async ValueTask ReleaseResourcesAsync(Device device)
    {
        if (device.ResourcesOrNull is { } resources)
            await resources.ReleaseAllAsync(fabric.Log);
    }

    // After remove: resources in reverse order, then power domain and bus, as they were acquired.
    private async ValueTask LetGoAsync(Device device, Driver driver)
    {
        await ReleaseResourcesAsync(device);
        if (device.PowerState is { } power)
            await power.DisableRuntimeAsync();
        try
        {
            if (device.Bus!.GetPowerDomain(device) is { } domain)
                await domain.DetachAsync(device);
            await device.Bus.UnconfigureAsync(device, driver);
        }
        catch (Exception e)
        {
            FabricLog.ReleaseFailed(fabric.Log, device.Name, e);
        }
    }

    private AttachOutcome FinishFailed(Device device, Driver driver, Exception error, long trigger)
    {
        lock (fabric.Gate)
        {
            device.ProbeCancellation = null;
            SetUnbound(device);
            if (device.State != DeviceState.Added)
                return new(AttachResult.Gone, error);
            if (error is ProbeDeferException)
            {
                AddDeferred(device, error.Message);
                // Something was bound while this probe ran: what it missed may be there now.
                if (trigger != _deferredTrigger)
                    RetryInGate();
            }
        }
        switch (error)
        {
            case ProbeDeferException:
                FabricLog.ProbeDeferred(fabric.Log, device.Name, error.Message);
                return new(AttachResult.Deferred, error);
            case VirtbusException { Errno: Errno.ENODEV or Errno.ENXIO }:
                FabricLog.ProbeDeclined(fabric.Log, device.Name, driver.Name, error.Message);
                return new(AttachResult.Failed, error);
            case VirtbusException v:
                FabricLog.ProbeFailed(fabric.Log, device.Name, driver.Name, $"{v.Message} ({v.Errno})", null);
                return new(AttachResult.Failed, error);
            default:
                FabricLog.ProbeFailed(fabric.Log, device.Name, driver.Name, error.Message, error);
                return new(AttachResult.Failed, error);
        }
    }

    private async ValueTask AttachPendingAsync(Device device)
    {
        List<Device>? pending;
        lock (fabric.Gate)
        {
            pending = device.PendingDescendants;
            device.PendingDescendants = null;
        }
        if (pending is not null)
            await AttachManyAsync(pending);
    }

    private DeviceId? TryMatch(Bus bus, Device device, Driver driver)
    {
        try
        {
            return bus.Match(device, driver);
        }
        catch (Exception e)
        {
            FabricLog.MatchFailed(fabric.Log, device.Name, bus.Name, driver.Name, e);
            return null;
        }
    }

    private bool IsForceSynchronous(Device device, Driver? only)
    {
        if (only is not null)
            return only.ProbeType == ProbeType.ForceSynchronous;
        return device.Bus is { } bus && bus.Candidates(device).Any(d => d.ProbeType == ProbeType.ForceSynchronous);
    }

    private static Device? MissingSupplier(Device device)
    {
        foreach (var link in device.Links?.Suppliers ?? [])
        {
            if (link.IsManaged && link.Supplier.Bus is not null && link.Supplier.Driver is null)
                return link.Supplier;
        }
        return null;
    }

    private static void SetUnbound(Device device)
    {
        DeviceList.Remove(device);
        if (device.State == DeviceState.Added)
            device.Bus!.Unbound.Add(device);
        device.Binding = Binding.Unbound;
        device.ClearDriverData();
    }

    private void RemoveLinksAtUnbind(Device device)
    {
        foreach (var link in device.Links?.Suppliers ?? [])
        {
            if (link.Flags.HasFlag(DeviceLinkFlags.AutoremoveConsumer))
                fabric.RemoveLinkInGate(link);
        }
        foreach (var link in device.Links?.Consumers ?? [])
        {
            if (link.Flags.HasFlag(DeviceLinkFlags.AutoremoveSupplier))
                fabric.RemoveLinkInGate(link);
        }
    }

    private void AddDeferred(Device device, string reason)
    {
        device.DeferredReason = reason;
        if (device.IsDeferred)
            return;
        device.IsDeferred = true;
        _deferred.AddLast(device);
    }

    private void RemoveDeferred(Device device)
    {
        device.DeferredReason = null;
        if (!device.IsDeferred)
            return;
        device.IsDeferred = false;
        _deferred.Remove(device);
    }

    private void TriggerDeferredInGate(Device bound)
    {
        _deferredTrigger++;
        foreach (var link in bound.Links?.Consumers ?? [])
        {
            if (link.Flags.HasFlag(DeviceLinkFlags.AutoprobeConsumer) && link.Consumer is { State: DeviceState.Added, Binding.State: BindingState.Unbound })
                AddDeferred(link.Consumer, $"supplier {bound.Name} was just bound");
        }
        RetryInGate();
    }

    private void RetryInGate()
    {
        if (_deferred.Count == 0)
            return;
        var queued = _retry.Count == 0 ? null : _retry.ToHashSet();
        foreach (var device in _deferred)
        {
            if (queued is null || !queued.Contains(device))
                _retry.Enqueue(device);
        }
        if (_retrying)
            return;
        _retrying = true;
        fabric.StartWork("deferred probes", RetryAsync);
    }

    private async Task RetryAsync()
    {
        while (true)
        {
            Device? device;
            lock (fabric.Gate)
            {
                if (!_retry.TryDequeue(out device))
                {
                    _retrying = false;
                    return;
                }
                if (!device.IsDeferred)
                    continue;
            }
            await AttachAsync(device);
        }
    }
}
