using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>The drivers of a fabric and what is asked of them by name. <see cref="Fabric"/> has the words of its calls.</summary>
internal sealed class DriverRegistry
{
    private readonly Fabric _fabric;
    private long _order;
    private Func<Bus, string, ValueTask>? _bring;

    internal DriverRegistry(Fabric fabric) => _fabric = fabric;

    internal async ValueTask RegisterAsync(Driver driver)
    {
        ArgumentNullException.ThrowIfNull(driver);
        var bus = driver.Bus;
        Device[] free;
        lock (_fabric.Gate)
        {
            if (bus.Fabric != _fabric)
                throw new VirtbusException(Errno.EINVAL, $"Driver {driver.Name} is for bus {bus.Name}, which is not registered with this fabric. Register the bus first.");
            bus.AddDriver(driver, ++_order);
            driver.IsRegistered = true;
            _fabric.Uevents.Emit(UeventAction.Add, Fabric.DriverFolder(driver), driver.Name, "drivers");
            free = bus.DriversAutoprobe ? bus.NotBound() : [];
        }
        await _fabric.Binder.AttachManyAsync([.. free.Where(d => _fabric.Binder.Match(d, driver) is not null)], driver);
    }

    internal async ValueTask UnregisterAsync(Driver driver)
    {
        ArgumentNullException.ThrowIfNull(driver);
        lock (_fabric.Gate)
        {
            if (!driver.IsRegistered)
                throw new VirtbusException(Errno.ENODEV, $"Driver {driver.Name} is not registered on bus {driver.Bus.Name}.");
            foreach (var device in driver.Bound.ToArray())
                _fabric.ThrowIfCallerDependsOn(device);
            // No new probe begins from here on. The name stays taken until the last device is unbound.
            driver.IsRegistered = false;
        }
        try
        {
            while (true)
            {
                Device[] bound;
                lock (_fabric.Gate)
                    bound = driver.Bound.ToArray();
                if (bound.Length == 0)
                    break;
                foreach (var device in bound.Reverse())
                    await _fabric.Binder.UnbindAsync(device, driver);
            }
        }
        catch
        {
            lock (_fabric.Gate)
                driver.IsRegistered = true;
            throw;
        }
        lock (_fabric.Gate)
        {
            driver.Bus.RemoveDriver(driver);
            _fabric.Uevents.Emit(UeventAction.Remove, Fabric.DriverFolder(driver), driver.Name, "drivers");
        }
    }

    internal async ValueTask ChangeIdsAsync(Driver driver, Action change)
    {
        ArgumentNullException.ThrowIfNull(driver);
        ArgumentNullException.ThrowIfNull(change);
        Device[] free;
        lock (_fabric.Gate)
        {
            var old = driver.Bus.MatchKeys(driver);
            change();
            if (!driver.IsRegistered)
                return;
            driver.Bus.Reindex(driver, old);
            free = driver.Bus.NotBound();
        }
        await _fabric.Binder.AttachManyAsync([.. free.Where(d => _fabric.Binder.Match(d, driver) is not null)], driver);
    }

    internal async ValueTask BindAsync(Driver driver, string deviceName)
    {
        ArgumentNullException.ThrowIfNull(driver);
        var device = FindOnBus(driver.Bus, deviceName);
        if (device.Driver is { } bound)
            throw AlreadyBound(device, bound);
        if (_fabric.Binder.Match(device, driver) is null)
            throw new VirtbusException(Errno.ENODEV, DoesNotServe(driver, device));
        var outcome = await _fabric.Binder.AttachAsync(device, driver);
        ThrowIfNotBound(device, driver, outcome);
    }

    internal async ValueTask UnbindAsync(Driver driver, string deviceName)
    {
        ArgumentNullException.ThrowIfNull(driver);
        var device = FindOnBus(driver.Bus, deviceName);
        if (await _fabric.Binder.UnbindAsync(device, driver))
            return;
        var now = device.Driver is { } other ? $"is bound to {other.Name}" : "has no driver";
        throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} is not bound to {driver.Name}: it {now}.");
    }

    internal async ValueTask ProbeAsync(Bus bus, string deviceName)
    {
        ArgumentNullException.ThrowIfNull(bus);
        var device = FindOnBus(bus, deviceName);
        var outcome = await _fabric.Binder.AttachAsync(device);
        if (outcome.Result == AttachResult.Gone)
            throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} was removed meanwhile.");
        if (outcome is { Result: AttachResult.Deferred, Error: null })
            throw new VirtbusException(Errno.EINVAL, $"Device {device.Name} is not probed yet: {device.DeferredReason ?? "it is tried again"}. It is tried again when that is there.");
    }

    /// <summary>Who brings a driver that is asked for by name and is not there: the loader of modules.</summary>
    internal void SetSource(Func<Bus, string, ValueTask>? bring) => Volatile.Write(ref _bring, bring);

    internal async ValueTask OverrideAsync(Device device, string? driverName)
    {
        ArgumentNullException.ThrowIfNull(device);
        // All that can be refused is refused before anything is changed.
        OverrideRule.Check(device, driverName);
        Driver? driver = null;
        if (!string.IsNullOrEmpty(driverName))
        {
            var bus = device.Bus!;
            if (!bus.TryGetDriver(driverName, out driver) && Volatile.Read(ref _bring) is { } bring)
                await bring(bus, driverName);
            if (driver is null && !bus.TryGetDriver(driverName, out driver))
                throw new VirtbusException(Errno.ENOENT, $"Bus {bus.Name} has no driver '{driverName}'. '/bus/{bus.Name}/drivers' lists those there are.");
        }
        var outcome = await _fabric.Binder.OverrideAsync(device, driver);
        if (driver is not null && outcome.Result != AttachResult.AlreadyBound)
            ThrowIfNotBound(device, driver, outcome);
        else if (outcome.Result == AttachResult.Gone)
            throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} was removed meanwhile.");
    }

    private static Device FindOnBus(Bus bus, string deviceName) =>
        bus.TryGetDevice(deviceName, out var device)
            ? device
            : throw new VirtbusException(Errno.ENODEV, deviceName.Length == 0
                ? $"No device was named. Write the name of a device on bus {bus.Name}."
                : $"Bus {bus.Name} has no device '{deviceName}'. '/bus/{bus.Name}/devices' lists those there are.");

    private static VirtbusException AlreadyBound(Device device, Driver driver) =>
        new(Errno.EBUSY, $"Device {device.Name} is bound to {driver.Name}. Unbind it first.");

    private static string DoesNotServe(Driver driver, Device device) =>
        OverrideRule.WantedInsteadOf(device, driver) is { } wanted
            ? $"Driver {driver.Name} can't bind {device.Name}: its driver_override is '{wanted}'. Clear or change driver_override first."
            : $"Driver {driver.Name} does not serve {device.Name}{(device.Modalias is { } m ? $" ({m})" : "")}: no entry of its id table matches.";

    private static void ThrowIfNotBound(Device device, Driver driver, AttachOutcome outcome)
    {
        switch (outcome.Result)
        {
            case AttachResult.Bound:
                return;
            case AttachResult.AlreadyBound:
                throw AlreadyBound(device, device.Driver ?? driver);
            case AttachResult.Deferred:
                throw new VirtbusException(Errno.EAGAIN, $"Probe of {device.Name} by {driver.Name} was deferred: {device.DeferredReason ?? "it is tried again"}. It is tried again when a driver binds.");
            case AttachResult.Parked:
                throw new VirtbusException(Errno.EAGAIN, $"Device {device.Name} is probed when the device above it has finished its probe or its sleep.");
            case AttachResult.NoDriver:
                throw new VirtbusException(Errno.ENODEV, DoesNotServe(driver, device));
            case AttachResult.Gone:
                throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} was removed meanwhile.");
            default:
                var errno = outcome.Error is VirtbusException v ? v.Errno : Errno.EIO;
                throw new VirtbusException(errno, $"Probe of {device.Name} by {driver.Name} failed: {outcome.Error?.Message}", outcome.Error);
        }
    }
}
