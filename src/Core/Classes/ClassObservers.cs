namespace Virtbus.Core;

/// <summary>Tells the observers of classes of devices that come and go, each once. <see cref="Fabric"/> has the words of its calls.</summary>
internal sealed class ClassObservers
{
    private readonly Fabric _fabric;

    internal ClassObservers(Fabric fabric) => _fabric = fabric;

    internal async ValueTask AddAsync(Class @class, IClassObserver observer)
    {
        ArgumentNullException.ThrowIfNull(@class);
        ArgumentNullException.ThrowIfNull(observer);
        ClassObservation observation;
        Device[] there;
        lock (_fabric.Gate)
        {
            observation = @class.AddObserver(observer);
            there = @class.Directory.Snapshot();
        }
        foreach (var device in there)
            await AnnounceAsync(device, [observation]);
    }

    internal async ValueTask RemoveAsync(Class @class, IClassObserver observer)
    {
        ArgumentNullException.ThrowIfNull(@class);
        ClassObservation? observation;
        Device[] known;
        lock (_fabric.Gate)
        {
            observation = @class.RemoveObserver(observer);
            if (observation is null)
                return;
            known = [.. observation.Known.OrderByDescending(d => d.Sequence)];
        }
        foreach (var device in known)
        {
            if (Transitions.Holds(device))
                await TakeBackAsync(device, [observation]);
            else
                await _fabric.Transitions.RunAsync(device, (this, observation), static (d, a) => a.Item1.TakeBackAsync(d, [a.observation]), mustSucceed: true);
        }
    }

    internal async ValueTask AnnounceAsync(Device device, IReadOnlyList<ClassObservation> observers)
    {
        if (Transitions.Holds(device))
            await AnnounceInTransitionAsync(device, observers);
        else
            await _fabric.Transitions.RunAsync(device, (this, observers), static (d, a) => a.Item1.AnnounceInTransitionAsync(d, a.observers), mustSucceed: true);
    }

    internal async ValueTask<bool> TakeBackAsync(Device device, IReadOnlyList<ClassObservation> observers)
    {
        foreach (var observation in observers)
        {
            lock (_fabric.Gate)
            {
                if (!observation.Known.Remove(device))
                    continue;
            }
            await ObserveAsync(device, observation.Observer, static (o, d) => o.DeviceRemovedAsync(d));
        }
        return true;
    }

    private async ValueTask<bool> AnnounceInTransitionAsync(Device device, IReadOnlyList<ClassObservation> observers)
    {
        foreach (var observation in observers)
        {
            lock (_fabric.Gate)
            {
                // Deleted meanwhile, or the observer left, or it was told by the other of the two ways.
                if (device.State != DeviceState.Added || observation.IsOver || !observation.Known.Add(device))
                    continue;
            }
            await ObserveAsync(device, observation.Observer, static (o, d) => o.DeviceAddedAsync(d));
        }
        return true;
    }

    private async ValueTask ObserveAsync(Device device, IClassObserver observer, Func<IClassObserver, Device, ValueTask> call)
    {
        try
        {
            await call(observer, device);
        }
        catch (Exception e)
        {
            FabricLog.ObserverFailed(_fabric.Log, device.Name, device.Class!.Name, e);
        }
    }
}
