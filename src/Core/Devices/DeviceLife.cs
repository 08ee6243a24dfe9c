using System.Collections.Frozen;
using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>How devices come into a fabric's tree and leave it. <see cref="Fabric"/> has the words of its calls.</summary>
internal sealed class DeviceLife
{
    // What the directory of every device has; a child of such a name could not be told from it.
    private static readonly FrozenSet<string> OwnFiles = FrozenSet.Create(
        StringComparer.Ordinal, "device", "driver", "driver_override", "driver_override_bind", "label", "modalias", "power", "subsystem", "uevent", "waiting_for_supplier");

    private readonly Fabric _fabric;
    private Action<string>[] _modaliasListeners = [];
    private long _sequence;

    internal DeviceLife(Fabric fabric) => _fabric = fabric;

    internal void AddModaliasListener(Action<string> listener)
    {
        lock (_fabric.Gate)
            _modaliasListeners = [.. _modaliasListeners, listener];
    }

    internal void RemoveModaliasListener(Action<string> listener)
    {
        lock (_fabric.Gate)
            _modaliasListeners = [.. _modaliasListeners.Where(l => l != listener)];
    }

    internal async ValueTask AddAsync(Device device)
    {
        ArgumentNullException.ThrowIfNull(device);
        // The bus's and the device's own words are asked for outside the gate; the event itself is numbered in the same step as the entry
        // into the tree, so nothing about the device is told before it.
        var variables = _fabric.VariablesOrLog(device);
        IReadOnlyList<ClassObservation> observers;
        lock (_fabric.Gate)
        {
            InsertInGate(device);
            _fabric.Emit(device, UeventAction.Add, variables);
            observers = device.Class?.Observers ?? [];
        }
        await _fabric.Scheduler.InterleaveAsync();
        if (observers.Count > 0)
            await _fabric.Observers.AnnounceAsync(device, observers);
        if (device.Bus is not { } bus)
            return;
        if (_modaliasListeners.Length > 0 && ModaliasOrLog(device) is { } modalias)
        {
            foreach (var listener in _modaliasListeners)
                listener(modalias);
        }
        if (bus.DriversAutoprobe)
            await _fabric.Binder.AttachOrStartAsync(device, only: null);
    }

    internal async ValueTask SurpriseRemoveAsync(Device device)
    {
        ArgumentNullException.ThrowIfNull(device);
        var probes = new List<CancellationTokenSource>();
        var gone = new List<Device>();
        lock (_fabric.Gate)
        {
            if (device.Fabric != _fabric)
                throw NeverAdded(device);
            MarkGone(device);
        }
        foreach (var probe in probes)
            Cancel(device, probe);
        foreach (var d in gone)
            TellGone(d);
        try
        {
            await DeleteAsync(device, mustSucceed: false);
        }
        catch (VirtbusException e) when (e.Errno == Errno.EDEADLK)
        {
            _fabric.StartWork("surprise removal of " + device.Name, () => DeleteAsync(device, mustSucceed: false).AsTask());
        }

        void MarkGone(Device d)
        {
            if (!d.IsGone)
                gone.Add(d);
            d.IsGone = true;
            if (d.ProbeCancellation is { } probe)
                probes.Add(probe);
            foreach (var child in d.Children)
                MarkGone(child);
        }
    }

    internal async ValueTask DeleteAsync(Device device, bool mustSucceed)
    {
        TransitionFrame frame;
        TransitionWaiter? waiter;
        CancellationTokenSource? probe;
        lock (_fabric.Gate)
        {
            if (device.Fabric != _fabric)
                throw NeverAdded(device);
            if (device.IsOut)
                return;
            if (!mustSucceed)
                _fabric.ThrowIfCallerDependsOn(device);
            frame = _fabric.Transitions.EnterInGate(device, mustSucceed, out waiter);
            device.State = DeviceState.Deleted;
            device.Deletes++;
            probe = device.ProbeCancellation;
        }
        Cancel(device, probe);
        if (waiter is not null)
        {
            try
            {
                await waiter.Task;
            }
            catch (VirtbusException)
            {
                StayAfterRefusedDelete(device);
                throw;
            }
        }
        if (await _fabric.Transitions.RunHeldAsync(device, frame, this, static (d, life) => life.DeleteInTransitionAsync(d)))
            device.Put();
    }

    private void Cancel(Device device, CancellationTokenSource? source)
    {
        try
        {
            source?.Cancel();
        }
        catch (AggregateException e)
        {
            FabricLog.CancelFailed(_fabric.Log, device.Name, e);
        }
    }

    private void StayAfterRefusedDelete(Device device)
    {
        lock (_fabric.Gate)
        {
            if (--device.Deletes > 0 || device.IsOut)
                return;
            device.State = DeviceState.Added;
            if (device.Bus is { } bus && device is { List: null, Binding.State: BindingState.Unbound })
                bus.Unbound.Add(device);
        }
        // Its probe may have been cancelled, or an attempt turned away.
        if (device is { IsGone: false, Bus.DriversAutoprobe: true })
            _fabric.StartWork("probe of " + device.Name, () => _fabric.Binder.AttachAsync(device).AsTask());
    }

    private async ValueTask<bool> DeleteInTransitionAsync(Device device)
    {
        if (device.IsOut)
            return false;
        await LeaveAsync(device);
        if (device.Class is { } @class)
        {
            IReadOnlyList<ClassObservation> observers;
            lock (_fabric.Gate)
            {
                observers = @class.Observers;
                @class.Directory.Remove(device);
            }
            await _fabric.Observers.TakeBackAsync(device, observers);
        }
        // Children before parents: what hangs below still has a working parent while it is unbound.
        foreach (var child in device.ChildrenNewestFirst)
            await DeleteAsync(child, mustSucceed: true);
        await _fabric.Binder.UnbindInTransitionAsync(device, null);
        await _fabric.Binder.ReleaseLeftoversAsync(device);
        if (device.PowerState is { } power)
            await power.ForgetUsesAsync();
        var variables = _fabric.VariablesOrLog(device);
        lock (_fabric.Gate)
        {
            _fabric.Binder.ForgetInGate(device);
            foreach (var link in device.Links?.Suppliers.Concat(device.Links.Consumers) ?? [])
                _fabric.LinkTable.RemoveInGate(link);
            DeviceList.Remove(device);
            device.Bus?.Directory.Remove(device);
            (device.Parent?.ChildDirectory ?? _fabric.Roots).Remove(device);
            device.IsOut = true;
            _fabric.Emit(device, UeventAction.Remove, variables);
        }
        return true;
    }

    private async ValueTask LeaveAsync(Device device)
    {
        try
        {
            await device.OnLeavingAsync();
        }
        catch (Exception e)
        {
            FabricLog.LeavingFailed(_fabric.Log, device.Name, e);
        }
    }

    private void TellGone(Device device)
    {
        try
        {
            device.OnGone();
        }
        catch (Exception e)
        {
            FabricLog.LeavingFailed(_fabric.Log, device.Name, e);
        }
    }

    private void InsertInGate(Device device)
    {
        if (device.AddedOnce)
            throw new VirtbusException(Errno.EINVAL, $"Device {device.Name} was added before. Make a new device.");
        if (device.Bus is { } bus && bus.Fabric != _fabric)
            throw new VirtbusException(Errno.EINVAL, $"Device {device.Name} is for bus {bus.Name}, which is not registered with this fabric. Register the bus first.");
        if (device.Class is { } @class && !(_fabric.TryGetClass(@class.Name, out var registered) && registered == @class))
            throw new VirtbusException(Errno.EINVAL, $"Device {device.Name} is of class {@class.Name}, which is not registered with this fabric. Register the class first.");
        if (device.Parent is { } parent && (parent.State != DeviceState.Added || parent.IsGone || parent.Fabric != _fabric))
            throw new VirtbusException(Errno.ENODEV, $"Device {device.Name}: its parent {parent.Name} is not in the tree. Add the parent first.");
        if (device.Bus is { } b && b.Directory.Has(device))
            throw Duplicate(device, $"bus {b.Name}");
        if (device.Class is { } c && c.Directory.Has(device))
            throw Duplicate(device, $"class {c.Name}");
        if (device.Parent is null ? device.Place == "virtual" : OwnFiles.Contains(device.Place))
            throw Duplicate(device, device.Parent?.DevPath ?? "/devices");
        var siblings = device.Parent?.ChildDirectory ?? _fabric.Roots;
        if (!siblings.TryAdd(device))
            throw Duplicate(device, device.Parent?.DevPath ?? "/devices");
        device.AddedOnce = true;
        device.Sequence = ++_sequence;
        device.Fabric = _fabric;
        device.State = DeviceState.Added;
        device.Get();
        device.Parent?.Get();
        if (device.Bus is not null)
        {
            device.Bus.Directory.TryAdd(device);
            device.Bus.Unbound.Add(device);
        }
        device.Class?.Directory.TryAdd(device);
    }

    private static VirtbusException Duplicate(Device device, string where) =>
        new(Errno.EEXIST, $"Device '{device.Name}' exists already in {where}. Delete that one or choose another name.");

    private string? ModaliasOrLog(Device device)
    {
        try
        {
            return device.Modalias;
        }
        catch (Exception e)
        {
            FabricLog.UeventVariablesFailed(_fabric.Log, device.Name, e);
            return null;
        }
    }

    private static VirtbusException NeverAdded(Device device) =>
        new(Errno.EINVAL, $"Device {device.Name} is not in this fabric. Only a device that was added can be deleted.");
}
