namespace Virtbus.Core;

/// <summary>The devices that were found during a probe above them: parents before children, so their attempt follows when that has ended.</summary>
internal sealed class HeldBackProbes(Fabric fabric)
{
    // Guarded by the fabric's gate.
    private readonly HashSet<Device> _devices = [];

    internal static Device? ProbingAbove(Device device)
    {
        var above = device.Parent;
        while (above is { Binding.State: not BindingState.Probing })
            above = above.Parent;
        return above;
    }

    internal void AddInGate(Device device, Device above)
    {
        (above.Extras.PendingDescendants ??= []).Add(device);
        _devices.Add(device);
    }

    internal void RemoveInGate(Device device) => _devices.Remove(device);

    /// <summary>See <see cref="Fabric.AwaitAttemptAsync"/>.</summary>
    internal async ValueTask AwaitAsync(Device device, CancellationToken cancellationToken)
    {
        if (Transitions.Ambient is not null)
            return;
        while (Contains(device, out var above))
        {
            if (above is null)
                await fabric.Binder.AttachOrStartAsync(device, only: null);
            else
                await fabric.Transitions.AwaitAsync(above, cancellationToken);
        }
        // One that is being made.
        await fabric.Transitions.AwaitAsync(device, cancellationToken);
    }

    private bool Contains(Device device, out Device? above)
    {
        lock (fabric.Gate)
        {
            above = ProbingAbove(device);
            return _devices.Contains(device);
        }
    }
}
