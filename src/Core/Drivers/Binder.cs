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
    private readonly HashSet<Device> _parked = [];
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

    /// <summary>The devices whose probe waits for the end of a sleep.</summary>
    public int ParkedCount
    {
        get
        {
            lock (fabric.Gate)
                return _parked.Count;
        }
    }

    /// <summary>Finds a driver for a device, and for those below it that waited for its probe.</summary>
    /// <param name="device">The device.</param>
    /// <param name="only">The one driver to try, or null.</param>
    /// <param name="mayStart">Whether an asynchronous driver's probe may be started beside the caller.</param>
    /// <param name="fromOrder">Passes over drivers registered before; an attempt that was begun elsewhere has tried them.</param>
    public async ValueTask<AttachOutcome> AttachAsync(Device device, Driver? only = null, bool mayStart = false, long fromOrder = 0)
    {
        AttachOutcome outcome;
        try
        {
            outcome = await fabric.Transitions.RunAsync(
                device,
                (this, only, mayStart, fromOrder),
                static (d, a) => a.Item1.AttachInTransitionAsync(d, a.only, a.mayStart, a.fromOrder));
        }
        finally
        {
            await AttachPendingAsync(device);
        }
        return outcome;
    }

    /// <summary>
    /// Attaches several devices: parents before what is below them, siblings side by side, those of force-synchronous drivers one after the
    /// other. A device whose transition waits for the caller gets its attempt beside the caller.
    /// </summary>
    public async ValueTask AttachManyAsync(IReadOnlyList<Device> devices, Driver? only = null)
    {
        List<Task>? running = null;
        var attempts = devices.Count > 1 ? new Dictionary<Device, Task>(devices.Count) : null;
        foreach (var device in devices)
        {
            var attempt = attempts is null ? AttachOrStartAsync(device, only) : AttachAfterParentAsync(device, only, attempts);
            if (attempt.IsCompletedSuccessfully)
                continue;
            var task = attempt.AsTask();
            attempts?.Add(device, task);
            if (IsForceSynchronous(device, only))
                await task;
            else
                (running ??= []).Add(task);
        }
        if (running is not null)
            await Task.WhenAll(running);
    }

    private async ValueTask AttachAfterParentAsync(Device device, Driver? only, Dictionary<Device, Task> attempts)
    {
        for (var above = device.Parent; above is not null; above = above.Parent)
        {
            if (attempts.TryGetValue(above, out var attempt))
            {
                await attempt;
                break;
            }
        }
        await AttachOrStartAsync(device, only);
    }

    public async ValueTask AttachOrStartAsync(Device device, Driver? only)
    {
        try
        {
            await AttachAsync(device, only, mayStart: true);
        }
        catch (VirtbusException e) when (e.Errno == Errno.EDEADLK)
        {
            StartAttach(device, only, fromOrder: 0);
        }
    }

    /// <summary>Makes the attempts that waited for the end of a suspend.</summary>
    public async ValueTask AttachParkedAsync()
    {
        Device[] parked;
        lock (fabric.Gate)
        {
            parked = InOrder(_parked);
            _parked.Clear();
        }
        await AttachManyAsync(parked);
    }

    /// <summary>Unbinds a device; consumers first.</summary>
    /// <returns>False when the device was not bound, or not to the driver named.</returns>
    /// <exception cref="VirtbusException">EDEADLK: the caller is a callback that the unbind would wait for.</exception>
    public ValueTask<bool> UnbindAsync(Device device, Driver? expected = null, bool mustSucceed = false)
    {
        if (!mustSucceed)
        {
            lock (fabric.Gate)
                fabric.ThrowIfCallerDependsOn(device);
        }
        return fabric.Transitions.RunAsync(device, (this, expected), static (d, a) => a.Item1.UnbindInTransitionAsync(d, a.expected), mustSucceed);
    }

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
            device.Bus!.Busy.Add(device);
            foreach (var link in device.Links?.Consumers ?? [])
            {
                if (link.IsManaged && link.Consumer.Binding.State != BindingState.Unbound)
                    (consumers ??= []).Add(link.Consumer);
            }
        }
        foreach (var consumer in consumers?.OrderByDescending(c => c.Sequence) ?? Enumerable.Empty<Device>())
        {
            try
            {
                await UnbindAsync(consumer, mustSucceed: true);
            }
            catch (VirtbusException e) when (e.Errno == Errno.EDEADLK)
            {
                // Linked by the very callback that unbinds its supplier.
                FabricLog.ConsumerStays(fabric.Log, device.Name, consumer.Name, e.Message);
            }
        }
        await fabric.Scheduler.InterleaveAsync();
        await RemoveAndLetGoAsync(device, driver);
        lock (fabric.Gate)
        {
            SetUnbound(device);
            RemoveLinksAtUnbind(device);
        }
        fabric.EmitFor(device, UeventAction.Unbind);
        return true;
    }

    /// <summary>Releases what was put into the resources of a device that has no driver.</summary>
    public ValueTask ReleaseLeftoversAsync(Device device) => ReleaseResourcesAsync(device);

    /// <summary>Forgets a device that leaves the tree.</summary>
    public void ForgetInGate(Device device)
    {
        RemoveDeferred(device);
        _parked.Remove(device);
    }

    /// <summary>The entry of a driver's table that serves a device, an override considered; null when the driver does not serve it.</summary>
    public DeviceId? Match(Device device, Driver driver)
    {
        if (device.DriverOverride is { } wanted && wanted != driver.Name)
            return null;
        try
        {
            return driver.Bus.Match(device, driver);
        }
        catch (Exception e)
        {
            FabricLog.MatchFailed(fabric.Log, device.Name, driver.Bus.Name, driver.Name, e);
            return null;
        }
    }

    private async ValueTask<AttachOutcome> AttachInTransitionAsync(Device device, Driver? only, bool mayStart, long fromOrder)
    {
        if (device.Bus is not { } bus)
            return new(AttachResult.NoDriver);
        lock (fabric.Gate)
        {
            if (device.State != DeviceState.Added || device.IsGone)
                return new(AttachResult.Gone);
            if (device.Driver is not null)
                return new(AttachResult.AlreadyBound);
            if (ParkInGate(device))
                return new(AttachResult.Parked);
        }
        var outcome = new AttachOutcome(AttachResult.NoDriver);
        foreach (var driver in only is null ? CandidatesOrLog(bus, device) : [only])
        {
            if (driver.Order < fromOrder || Match(device, driver) is not { } id)
                continue;
            if (mayStart && driver.ProbeType == ProbeType.PreferAsynchronous)
            {
                StartAttach(device, only, driver.Order);
                return new(AttachResult.Started);
            }
            var one = device.Parent?.PowerState is { RuntimeStatus: not RuntimeStatus.Unsupported } power
                ? await ProbeBelowAwakeParentAsync(power, device, driver, id)
                : await ProbeAsync(device, driver, id);
            if (one.Result is AttachResult.Bound or AttachResult.Gone or AttachResult.Parked)
                return one;
            if (outcome.Result != AttachResult.Deferred && one.Result != AttachResult.NoDriver)
                outcome = one;
            // A missing supplier holds back every driver; a driver that defers leaves the way free for the next one.
            if (one is { Result: AttachResult.Deferred, Error: null })
                return one;
        }
        if (only is null && fromOrder == 0 && outcome.Result != AttachResult.Deferred)
        {
            // Every driver had its turn and none waits for anything.
            lock (fabric.Gate)
                RemoveDeferred(device);
        }
        return outcome;
    }

    // A method of its own: a closure in a method on the way of every device would be made for every device.
    private void StartAttach(Device device, Driver? only, long fromOrder) =>
        fabric.StartWork("probe of " + device.Name, () => AttachAsync(device, only, fromOrder: fromOrder).AsTask());

    // Parents before children: a device found during a probe above it is probed when that has ended, one found during a sleep when that has.
    private bool ParkInGate(Device device)
    {
        for (var above = device.Parent; above is not null; above = above.Parent)
        {
            if (above.Binding.State == BindingState.Probing)
            {
                (above.PendingDescendants ??= []).Add(device);
                return true;
            }
        }
        if (PowerTransitions.SleepingSelfOrAncestor(device) is null)
            return false;
        _parked.Add(device);
        return true;
    }

    private static Device[] InOrder(HashSet<Device> devices)
    {
        Device[] order = [.. devices];
        Array.Sort(order, static (a, b) => a.Sequence.CompareTo(b.Sequence));
        return order;
    }

    private Driver[] CandidatesOrLog(Bus bus, Device device)
    {
        try
        {
            return bus.Candidates(device);
        }
        catch (Exception e)
        {
            FabricLog.CandidatesFailed(fabric.Log, device.Name, bus.Name, e);
            return [];
        }
    }

    // A parent that sleeps while idle is awake for the probes below it.
    private async ValueTask<AttachOutcome> ProbeBelowAwakeParentAsync(DevicePower parent, Device device, Driver driver, DeviceId id)
    {
        var held = await parent.TryHoldAsync("probe of " + device.Name);
        try
        {
            return await ProbeAsync(device, driver, id);
        }
        finally
        {
            if (held)
                await parent.LetGoAsync();
        }
    }

    private async ValueTask<AttachOutcome> ProbeAsync(Device device, Driver driver, DeviceId id)
    {
        await fabric.Scheduler.InterleaveAsync();
        var bus = device.Bus!;
        long trigger;
        CancellationTokenSource cancellation;
        lock (fabric.Gate)
        {
            if (device.State != DeviceState.Added || device.IsGone)
                return new(AttachResult.Gone);
            // Looked at again: a probe or a sleep above may have begun since the attempt did.
            if (ParkInGate(device))
                return new(AttachResult.Parked);
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
            bus.Busy.Add(device);
            device.ProbeCancellation = cancellation = new CancellationTokenSource();
        }
        Exception? error = null;
        try
        {
            await ConfigureAndProbeAsync(bus, device, driver, id, cancellation.Token);
        }
        catch (Exception e)
        {
            error = e;
        }
        if (error is not null)
            return FinishFailed(device, driver, error, trigger);
        bool vanished;
        lock (fabric.Gate)
        {
            device.ProbeCancellation = null;
            // A device that vanished during its probe is not bound, whatever the probe made of it.
            vanished = device.State != DeviceState.Added || device.IsGone;
            device.Binding = vanished ? driver.UnbindingBinding : driver.BoundBinding;
            if (!vanished)
            {
                bus.Busy.Remove(device);
                RemoveDeferred(device);
            }
        }
        if (vanished)
        {
            await RemoveAndLetGoAsync(device, driver);
            lock (fabric.Gate)
                SetUnbound(device);
            return new(AttachResult.Gone);
        }
        // Told before those that waited for it may go on.
        fabric.EmitFor(device, UeventAction.Bind);
        lock (fabric.Gate)
            TriggerDeferredInGate(device);
        return new(AttachResult.Bound);
    }

    private async ValueTask ConfigureAndProbeAsync(Bus bus, Device device, Driver driver, DeviceId id, CancellationToken token)
    {
        var configured = false;
        IPowerDomain? domain = null;
        try
        {
            await bus.ConfigureAsync(device, driver);
            configured = true;
            if (bus.GetPowerDomain(device) is { } attach)
            {
                await attach.AttachAsync(device);
                domain = attach;
            }
            await driver.ProbeAsync(device, id, token);
        }
        catch
        {
            await LetGoAsync(device, driver, domain, configured);
            throw;
        }
    }

    private async ValueTask RemoveAndLetGoAsync(Device device, Driver driver)
    {
        if (device.PowerState is { } power)
            await power.HoldForRemoveAsync();
        try
        {
            await driver.RemoveAsync(device);
        }
        catch (Exception e)
        {
            FabricLog.RemoveFailed(fabric.Log, device.Name, driver.Name, e);
        }
        IPowerDomain? domain = null;
        try
        {
            domain = device.Bus!.GetPowerDomain(device);
        }
        catch (Exception e)
        {
            FabricLog.ReleaseFailed(fabric.Log, device.Name, e);
        }
        await LetGoAsync(device, driver, domain, configured: true);
    }

    private async ValueTask ReleaseResourcesAsync(Device device)
    {
        if (device.ResourcesOrNull is { } resources)
            await resources.ReleaseAllAsync(fabric.Log);
    }

    // What the probe acquired goes before what it stood on. Each step is taken whatever became of the one before.
    private async ValueTask LetGoAsync(Device device, Driver driver, IPowerDomain? domain, bool configured)
    {
        await ReleaseResourcesAsync(device);
        if (device.PowerState is { } power)
            await power.DisableRuntimeAsync();
        try
        {
            if (domain is not null)
                await domain.DetachAsync(device);
        }
        catch (Exception e)
        {
            FabricLog.ReleaseFailed(fabric.Log, device.Name, e);
        }
        try
        {
            if (configured)
                await device.Bus!.UnconfigureAsync(device, driver);
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
            foreach (var link in device.Links?.Suppliers ?? [])
            {
                if (link.IsManaged && link.Flags.HasFlag(DeviceLinkFlags.AutoremoveConsumer))
                    fabric.LinkTable.EndManagedInGate(link);
            }
            if (device.State != DeviceState.Added || device.IsGone)
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
        Device[] pending;
        if (device.PendingDescendants is null)
            return;
        lock (fabric.Gate)
        {
            pending = InOrder(device.PendingDescendants ?? []);
            device.PendingDescendants = null;
        }
        await AttachManyAsync(pending);
    }

    private bool IsForceSynchronous(Device device, Driver? only)
    {
        if (only is not null)
            return only.ProbeType == ProbeType.ForceSynchronous;
        return device.Bus is { } bus && CandidatesOrLog(bus, device).Any(d => d.ProbeType == ProbeType.ForceSynchronous);
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
        device.Bus!.Busy.Remove(device);
        if (device.State == DeviceState.Added)
            device.Bus.Unbound.Add(device);
        device.Binding = Binding.Unbound;
        device.ClearDriverData();
    }

    private void RemoveLinksAtUnbind(Device device)
    {
        foreach (var link in device.Links?.Suppliers ?? [])
        {
            if (link.IsManaged && link.Flags.HasFlag(DeviceLinkFlags.AutoremoveConsumer))
                fabric.LinkTable.EndManagedInGate(link);
        }
        foreach (var link in device.Links?.Consumers ?? [])
        {
            if (link.IsManaged && link.Flags.HasFlag(DeviceLinkFlags.AutoremoveSupplier))
                fabric.LinkTable.EndManagedInGate(link);
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
            if (link.IsManaged && link.Flags.HasFlag(DeviceLinkFlags.AutoprobeConsumer) && link.Consumer is { State: DeviceState.Added, Bus: not null, Binding.State: BindingState.Unbound })
                AddDeferred(link.Consumer, $"supplier {bound.Name} was just bound");
        }
        RetryInGate();
    }

    /// <summary>Tries the deferred devices again, beside the caller.</summary>
    public void RetryInGate()
    {
        foreach (var device in _deferred)
        {
            if (device.IsRetryQueued)
                continue;
            device.IsRetryQueued = true;
            _retry.Enqueue(device);
        }
        if (_retrying || _retry.Count == 0)
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
                device.IsRetryQueued = false;
                // Turned off, probes are made when asked for only; the device keeps its place and its reason.
                if (device is not { IsDeferred: true, Bus.DriversAutoprobe: true })
                    continue;
            }
            try
            {
                await AttachAsync(device);
            }
            catch (Exception e)
            {
                // One device's trouble must not end the retries of the others.
                FabricLog.RetryFailed(fabric.Log, device.Name, e);
            }
        }
    }
}
