using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>System sleep of a tree or a part of it, resume, and shutdown.</summary>
internal sealed class PowerTransitions(Fabric fabric)
{
    private int _busy;

    /// <summary>The callbacks that are asked for a device: class, bus, driver; the first that has any.</summary>
    public static IPowerOps? OpsOf(Device device) =>
        device.Class?.PowerOps ?? device.Bus?.PowerOps ?? device.Binding.Driver?.PowerOps;

    public async ValueTask SuspendAsync(Device? root)
    {
        try
        {
            using (Enter())
                await SleepAsync(root);
        }
        catch
        {
            await fabric.Binder.AttachParkedAsync();
            throw;
        }
    }

    private async ValueTask SleepAsync(Device? root)
    {
        // What sleeps already is not this transition's to wake again when it fails.
        var ours = new HashSet<Device>();
        try
        {
            // A device can come, or be linked, until the one above it is prepared; so it is looked for again.
            while (true)
            {
                var more = Order(Collect(root, withConsumers: true).Where(static d => d.PowerState is not { Phase: > SleepPhase.Awake })).FindAll(ours.Add);
                if (more.Count == 0)
                    break;
                foreach (var device in more)
                    await StepAsync(device, SleepPhase.Awake, SleepPhase.Prepared, "prepare", static (o, d) => o.PrepareAsync(d));
            }
            var order = Order(ours);
            order.Reverse();
            foreach (var device in order)
                await StepAsync(device, SleepPhase.Prepared, SleepPhase.Suspended, "suspend", static (o, d) => o.SuspendAsync(d));
            foreach (var device in order)
                await StepAsync(device, SleepPhase.Suspended, SleepPhase.SuspendedLate, "suspend_late", static (o, d) => o.SuspendLateAsync(d));
            foreach (var device in order)
                await StepAsync(device, SleepPhase.SuspendedLate, SleepPhase.SuspendedNoIrq, "suspend_noirq", static (o, d) => o.SuspendNoIrqAsync(d));
        }
        catch
        {
            await WakeAsync(Order(ours));
            throw;
        }
    }

    public async ValueTask ResumeAsync(Device? root)
    {
        using (Enter())
            await WakeAsync(Wakeable(root));
        await fabric.Binder.AttachParkedAsync();
    }

    // Parents and suppliers first: what stands on something that stays asleep stays asleep too, and wakes with that.
    private List<Device> Wakeable(Device? root)
    {
        var wakeable = new HashSet<Device>();
        var order = Order(Collect(root, withConsumers: true));
        foreach (var device in order)
        {
            var asleep = Needs(device).FirstOrDefault(n => n.PowerState is { Phase: > SleepPhase.Awake } && !wakeable.Contains(n));
            if (asleep is null)
                wakeable.Add(device);
            else if (device == root)
                throw new VirtbusException(Errno.EBUSY, $"Device {root.Name} can't resume while {asleep.Name}, which it needs, is suspended. Resume {asleep.Name}.");
        }
        return order.FindAll(wakeable.Contains);
    }

    private static IEnumerable<Device> Needs(Device device)
    {
        if (device.Parent is { } parent)
            yield return parent;
        foreach (var link in device.Links?.Suppliers ?? [])
            yield return link.Supplier;
    }

    public async ValueTask ShutdownAsync()
    {
        foreach (var device in Enumerable.Reverse(Order(Collect(null, withConsumers: false))))
        {
            try
            {
                await fabric.Transitions.RunAsync(device, 0, static async (d, _) =>
                {
                    if (d.State == DeviceState.Added && d.Driver is { } driver)
                        await driver.ShutdownAsync(d);
                    return 0;
                });
            }
            catch (Exception e)
            {
                FabricLog.PowerFailed(fabric.Log, device.Name, "shutdown", e.Message);
            }
        }
    }

    /// <summary>The device itself or the nearest one above it that sleeps or is about to.</summary>
    public static Device? SleepingSelfOrAncestor(Device device)
    {
        for (var above = device; above is not null; above = above.Parent)
        {
            if (above.PowerState is { Phase: > SleepPhase.Awake })
                return above;
        }
        return null;
    }

    private Turn Enter()
    {
        // It would come to the caller's own device, and could then neither go on nor unwind.
        if (Transitions.Ambient?.Device is { } held)
            throw new VirtbusException(Errno.EDEADLK, $"A power transition can't be made from a callback of {held.Name}. Make it after the callback has returned.");
        if (Interlocked.Exchange(ref _busy, 1) != 0)
            throw new VirtbusException(Errno.EBUSY, "A power transition is under way. Try again when it has ended.");
        return new Turn(this);
    }

    private readonly struct Turn(PowerTransitions owner) : IDisposable
    {
        public void Dispose() => Volatile.Write(ref owner._busy, 0);
    }

    private async ValueTask WakeAsync(List<Device> order)
    {
        foreach (var device in order)
            await UndoAsync(device, SleepPhase.SuspendedNoIrq, SleepPhase.SuspendedLate, "resume_noirq", static (o, d) => o.ResumeNoIrqAsync(d));
        foreach (var device in order)
            await UndoAsync(device, SleepPhase.SuspendedLate, SleepPhase.Suspended, "resume_early", static (o, d) => o.ResumeEarlyAsync(d));
        foreach (var device in order)
            await UndoAsync(device, SleepPhase.Suspended, SleepPhase.Prepared, "resume", static (o, d) => o.ResumeAsync(d));
        foreach (var device in Enumerable.Reverse(order))
            await UndoAsync(device, SleepPhase.Prepared, SleepPhase.Awake, "complete", static (o, d) => o.CompleteAsync(d));
    }

    private async ValueTask StepAsync(Device device, SleepPhase from, SleepPhase to, string name, Func<IPowerOps, Device, ValueTask> callback)
    {
        await fabric.Transitions.RunAsync(device, (from, to, name, callback), static async (d, step) =>
        {
            if (d.State != DeviceState.Added || d.Power.Phase != step.from)
                return 0;
            try
            {
                if (OpsOf(d) is { } ops)
                    await step.callback(ops, d);
            }
            catch (Exception e)
            {
                var errno = e is VirtbusException v ? v.Errno : Errno.EIO;
                throw new VirtbusException(errno, $"Device {d.Name} refused to {step.name}: {e.Message} What was suspended before it was resumed.", e);
            }
            d.Power.Phase = step.to;
            return 0;
        });
    }

    private async ValueTask UndoAsync(Device device, SleepPhase from, SleepPhase to, string name, Func<IPowerOps, Device, ValueTask> callback)
    {
        await fabric.Transitions.RunAsync(device, (from, to, name, callback, fabric.Log), static async (d, step) =>
        {
            if (d.PowerState is not { } power || power.Phase != step.from)
                return 0;
            power.Phase = step.to;
            if (d.State != DeviceState.Added)
                return 0;
            try
            {
                if (OpsOf(d) is { } ops)
                    await step.callback(ops, d);
            }
            catch (Exception e)
            {
                // A device that does not wake must not keep the others asleep.
                FabricLog.PowerFailed(step.Log, d.Name, step.name, e.Message);
            }
            return 0;
        });
    }

    private HashSet<Device> Collect(Device? root, bool withConsumers)
    {
        var set = new HashSet<Device>();
        var pending = new Stack<Device>();
        lock (fabric.Gate)
        {
            foreach (var device in root is null ? fabric.Roots.Snapshot() : [root])
                pending.Push(device);
            while (pending.TryPop(out var device))
            {
                if (!set.Add(device))
                    continue;
                foreach (var child in device.Children)
                    pending.Push(child);
                foreach (var link in (withConsumers ? device.Links?.Consumers : null) ?? [])
                {
                    if (link.Consumer.State == DeviceState.Added)
                        pending.Push(link.Consumer);
                }
            }
        }
        return set;
    }

    // Parents and suppliers come before children and consumers; otherwise creation order.
    private List<Device> Order(IEnumerable<Device> devices)
    {
        var set = devices.ToHashSet();
        var order = new List<Device>(set.Count);
        var done = new HashSet<Device>();
        lock (fabric.Gate)
        {
            foreach (var device in set.OrderBy(d => d.Sequence))
                Visit(device);
        }
        return order;

        void Visit(Device device)
        {
            if (!set.Contains(device) || !done.Add(device))
                return;
            if (device.Parent is { } parent)
                Visit(parent);
            foreach (var link in device.Links?.Suppliers ?? [])
                Visit(link.Supplier);
            order.Add(device);
        }
    }
}
