using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>Binds devices to drivers and lets them go. Everything runs in the device's transition; nothing of a driver runs under a lock.</summary>
internal sealed class Binder(Fabric fabric)
{
    private readonly ProbeSteps _steps = new(fabric);

    // Guarded by the fabric's gate.
    private readonly HashSet<Device> _parked = [];

    internal HeldBackProbes HeldBack { get; } = new(fabric);

    internal DeferredProbes Deferred { get; } = new(fabric);

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
        await _steps.RemoveAsync(device, driver);
        lock (fabric.Gate)
        {
            SetUnbound(device);
            RemoveLinksAtUnbind(device);
        }
        fabric.EmitFor(device, UeventAction.Unbind);
        return true;
    }

    /// <summary>
    /// Leaves a device to one driver (or to any), unbinds it from another and binds it, in one transition: nobody comes in between. A probe that
    /// fails leaves the device to that driver all the same, without one.
    /// </summary>
    /// <returns><see cref="AttachResult.AlreadyBound"/> when the driver had it before.</returns>
    /// <exception cref="VirtbusException">EDEADLK: the caller is a callback that the unbind would wait for; nothing has changed then.</exception>
    public async ValueTask<AttachOutcome> OverrideAsync(Device device, Driver? driver)
    {
        lock (fabric.Gate)
            fabric.ThrowIfCallerDependsOn(device);
        try
        {
            return await fabric.Transitions.RunAsync(device, (this, driver), static (d, a) => a.Item1.OverrideInTransitionAsync(d, a.driver));
        }
        finally
        {
            await AttachPendingAsync(device);
        }
    }

    private async ValueTask<AttachOutcome> OverrideInTransitionAsync(Device device, Driver? driver)
    {
        lock (fabric.Gate)
        {
            if (device.State != DeviceState.Added || device.IsGone)
                return new(AttachResult.Gone);
        }
        OverrideRule.Set(device, driver?.Name);
        if (device.Driver is { } bound && bound != driver)
            await UnbindInTransitionAsync(device, null);
        return await AttachInTransitionAsync(device, driver, mayStart: false, fromOrder: 0);
    }

    /// <summary>Releases what was put into the resources of a device that has no driver.</summary>
    public ValueTask ReleaseLeftoversAsync(Device device) => _steps.ReleaseResourcesAsync(device);

    /// <summary>Forgets a device that leaves the tree.</summary>
    public void ForgetInGate(Device device)
    {
        Deferred.RemoveInGate(device);
        _parked.Remove(device);
        HeldBack.RemoveInGate(device);
    }

    /// <summary>The entry of a driver's table that serves a device, what its user asked for considered; null when the driver does not serve it.</summary>
    public DeviceId? Match(Device device, Driver driver)
    {
        try
        {
            return OverrideRule.Match(device, driver);
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
            HeldBack.RemoveInGate(device);
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
                Deferred.RemoveInGate(device);
        }
        return outcome;
    }

    // A method of its own: a closure in a method on the way of every device would be made for every device.
    private void StartAttach(Device device, Driver? only, long fromOrder) =>
        fabric.StartWork("probe of " + device.Name, () => AttachAsync(device, only, fromOrder: fromOrder).AsTask());

    // Parents before children: a device found during a probe above it is probed when that has ended, one found during a sleep when that has.
    private bool ParkInGate(Device device)
    {
        if (HeldBackProbes.ProbingAbove(device) is { } above)
        {
            HeldBack.AddInGate(device, above);
            return true;
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
            return OverrideRule.Candidates(bus, device);
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
                Deferred.AddInGate(device, $"supplier {supplier.Name} not ready");
                return new(AttachResult.Deferred);
            }
            trigger = Deferred.TriggersInGate;
            device.Binding = driver.ProbingBinding;
            DeviceList.Remove(device);
            driver.Bound.Add(device);
            bus.Busy.Add(device);
            device.ProbeCancellation = cancellation = new CancellationTokenSource();
        }
        Exception? error = null;
        try
        {
            await _steps.ProbeAsync(device, driver, id, cancellation.Token);
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
                Deferred.RemoveInGate(device);
                device.ProbeFailure = null;
            }
        }
        if (vanished)
        {
            await _steps.RemoveAsync(device, driver);
            lock (fabric.Gate)
                SetUnbound(device);
            return new(AttachResult.Gone);
        }
        // Told before those that waited for it may go on.
        fabric.EmitFor(device, UeventAction.Bind);
        lock (fabric.Gate)
            Deferred.TriggerInGate(device);
        return new(AttachResult.Bound);
    }

    private AttachOutcome FinishFailed(Device device, Driver driver, Exception error, long trigger)
    {
        lock (fabric.Gate)
        {
            device.ProbeCancellation = null;
            SetUnbound(device);
            device.ProbeFailure = error is ProbeDeferException ? null : error.Message;
            foreach (var link in device.Links?.Suppliers ?? [])
            {
                if (link.IsManaged && link.Flags.HasFlag(DeviceLinkFlags.AutoremoveConsumer))
                    fabric.LinkTable.EndManagedInGate(link);
            }
            if (device.State != DeviceState.Added || device.IsGone)
                return new(AttachResult.Gone, error);
            if (error is ProbeDeferException)
            {
                Deferred.AddInGate(device, error.Message);
                // Something was bound while this probe ran: what it missed may be there now.
                if (trigger != Deferred.TriggersInGate)
                    Deferred.RetryInGate();
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
            device.Extras.PendingDescendants = null;
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
}
