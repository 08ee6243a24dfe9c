namespace Virtbus.Core;

/// <summary>
/// The devices that wait for a supplier, or whose driver asked to be tried again, and their retries when something was bound. What ends in
/// InGate is called under the fabric's gate.
/// </summary>
internal sealed class DeferredProbes(Fabric fabric)
{
    // Guarded by the fabric's gate.
    private readonly LinkedList<Device> _waiting = new();
    private readonly Queue<Device> _retry = new();
    private long _triggers;
    private bool _retrying;

    /// <summary>The devices that wait, with the reason, in the order in which they began to wait.</summary>
    internal IReadOnlyList<Device> Snapshot()
    {
        lock (fabric.Gate)
            return [.. _waiting];
    }

    /// <summary>How often something was bound: a probe that began at another number may have missed it.</summary>
    internal long TriggersInGate => _triggers;

    internal void AddInGate(Device device, string reason)
    {
        device.DeferredReason = reason;
        if (device.IsDeferred)
            return;
        device.IsDeferred = true;
        _waiting.AddLast(device);
    }

    internal void RemoveInGate(Device device)
    {
        device.DeferredReason = null;
        if (!device.IsDeferred)
            return;
        device.IsDeferred = false;
        _waiting.Remove(device);
    }

    /// <summary>A device was bound: what waited may find there what it missed.</summary>
    internal void TriggerInGate(Device bound)
    {
        _triggers++;
        foreach (var link in bound.Links?.Consumers ?? [])
        {
            if (link.IsManaged && link.Flags.HasFlag(DeviceLinkFlags.AutoprobeConsumer) && link.Consumer is { State: DeviceState.Added, Bus: not null, Binding.State: BindingState.Unbound })
                AddInGate(link.Consumer, $"supplier {bound.Name} was just bound");
        }
        RetryInGate();
    }

    /// <summary>Tries the deferred devices again, beside the caller.</summary>
    internal void RetryInGate()
    {
        foreach (var device in _waiting)
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
                await fabric.Binder.AttachAsync(device);
            }
            catch (Exception e)
            {
                // One device's trouble must not end the retries of the others.
                FabricLog.RetryFailed(fabric.Log, device.Name, e);
            }
        }
    }
}
