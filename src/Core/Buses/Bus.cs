using System.Collections.Concurrent;
using System.Diagnostics.CodeAnalysis;
using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>
/// Matches devices to drivers and hands over. A bus has no resources and no life cycle of its own; what it adds for its kind is a
/// device type, a driver type, a pure <see cref="Match"/> and the words of its attributes and events.
/// </summary>
public abstract class Bus
{
    private readonly ConcurrentDictionary<string, Driver> _drivers = new();
    private readonly ConcurrentDictionary<string, Driver[]> _byKey = new();
    private Driver[] _withoutKeys = [];

    /// <summary>Makes a bus.</summary>
    /// <param name="name">Lower-case name, as under <c>/sys/bus</c>.</param>
    protected Bus(string name)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        Name = name;
    }

    /// <summary>The bus's name.</summary>
    public string Name { get; }

    /// <summary>The fabric that the bus is registered with; null before.</summary>
    public Fabric? Fabric { get; internal set; }

    /// <summary>True (as at start) when a new device or driver is matched and probed at once; else only when asked to.</summary>
    public bool DriversAutoprobe { get; set; } = true;

    /// <summary>True when devices of this bus have a <c>driver_override</c>.</summary>
    public virtual bool HasDriverOverride => false;

    /// <summary>The devices on the bus in creation order, at this moment.</summary>
    public IReadOnlyList<Device> Devices => Directory.Snapshot();

    /// <summary>The number of devices on the bus.</summary>
    public int DeviceCount => Directory.Count;

    /// <summary>The drivers in registration order, at this moment.</summary>
    public IReadOnlyList<Driver> Drivers => [.. _drivers.Values.OrderBy(d => d.Order)];

    /// <summary>Finds a device by name.</summary>
    /// <param name="name">The device's name.</param>
    /// <param name="device">The device.</param>
    public bool TryGetDevice(string name, [NotNullWhen(true)] out Device? device) => Directory.TryGet(name, out device);

    /// <summary>Finds a driver by name.</summary>
    /// <param name="name">The driver's name.</param>
    /// <param name="driver">The driver.</param>
    public bool TryGetDriver(string name, [NotNullWhen(true)] out Driver? driver) => _drivers.TryGetValue(name, out driver);

    /// <summary>
    /// Finds the entry of a driver's table that serves a device. Pure: same answer for the same arguments, no effect (DM-05); may be
    /// called at any time from any thread.
    /// </summary>
    /// <param name="device">The device's identity, which is all that a match may look at.</param>
    /// <param name="driver">The driver.</param>
    /// <returns>The entry, handed to the driver's probe; null when the driver does not serve the device.</returns>
    public abstract DeviceId? Match(IDeviceIdentity device, Driver driver);

    /// <summary>
    /// The entry for a driver that the device's <c>driver_override</c> names, which gets the device whatever its table says. Pure, as
    /// <see cref="Match"/> is. A bus whose table entries carry nothing that a driver needs makes one up.
    /// </summary>
    /// <param name="device">The device's identity.</param>
    /// <param name="driver">The driver that the user named.</param>
    /// <returns>The entry; null when the driver can't serve such a device at all.</returns>
    protected internal virtual DeviceId? MatchOverride(IDeviceIdentity device, Driver driver) => Match(device, driver);

    /// <summary>The one key under which drivers that can serve this device are indexed; null to look at every driver.</summary>
    /// <param name="device">The device's identity.</param>
    protected internal virtual string? MatchKey(IDeviceIdentity device) => null;

    /// <summary>The keys under which a driver is indexed; null when it must be looked at for every device.</summary>
    /// <param name="driver">The driver.</param>
    protected internal virtual IReadOnlyCollection<string>? MatchKeys(Driver driver) => null;

    /// <summary>The alias by which a module for the device is found; null on buses that have none.</summary>
    /// <param name="device">The device.</param>
    protected internal virtual string? GetModalias(Device device) => null;

    /// <summary>Adds the bus's variables to a device's events.</summary>
    /// <param name="device">The device.</param>
    /// <param name="variables">The event's variables; add to them, and do not keep them: a later event has the object.</param>
    protected internal virtual void AddUeventVariables(Device device, UeventVariables variables)
    {
    }

    /// <summary>Runs before the driver's probe: claims what the bus must own for it. An error fails the bind.</summary>
    /// <param name="device">The device.</param>
    /// <param name="driver">The driver that is about to probe.</param>
    protected internal virtual ValueTask ConfigureAsync(Device device, Driver driver) => default;

    /// <summary>Undoes <see cref="ConfigureAsync"/>; called once for each successful one.</summary>
    /// <param name="device">The device.</param>
    /// <param name="driver">The driver that was bound or whose probe failed.</param>
    protected internal virtual ValueTask UnconfigureAsync(Device device, Driver driver) => default;

    /// <summary>Power callbacks of the bus; null when the driver's own are called.</summary>
    protected internal virtual IPowerOps? PowerOps => null;

    /// <summary>The power domain of a device of this bus, or null.</summary>
    /// <param name="device">The device.</param>
    protected internal virtual IPowerDomain? GetPowerDomain(Device device) => null;

    /// <summary>Attributes of the bus's own directory.</summary>
    protected internal virtual IReadOnlyList<AttributeGroup> AttributeGroups => [];

    /// <summary>What the bus adds to <c>/kernel</c>, at the moment that someone looks.</summary>
    protected internal virtual IEnumerable<TreeNode> KernelNodes => [];

    /// <summary>Attributes of every device on the bus.</summary>
    protected internal virtual IReadOnlyList<AttributeGroup> DeviceAttributeGroups => [];

    /// <summary>Attributes of every driver on the bus.</summary>
    protected internal virtual IReadOnlyList<AttributeGroup> DriverAttributeGroups => [];

    /// <summary>
    /// Deletes one of a device's <see cref="Device.Dependents"/> as a step of the removal of that device. Where transitions wait for each other in
    /// a circle, another wait is refused instead of this one. Harmless for a device that is out.
    /// </summary>
    /// <param name="device">A device of this bus that was added.</param>
    /// <exception cref="VirtbusException">EDEADLK: called from a callback of the device; see <see cref="ThrowIfCallerDependsOn"/>.</exception>
    protected static ValueTask DeleteDependentAsync(Device device)
    {
        ArgumentNullException.ThrowIfNull(device);
        return device.Fabric!.Life.DeleteAsync(device, mustSucceed: true);
    }

    /// <summary>Refuses a removal before anything is done when the caller is a callback that it would wait for.</summary>
    /// <param name="device">A device that would be removed.</param>
    /// <exception cref="VirtbusException">EDEADLK: called from a callback of the device, of one below it or of one that depends on it.</exception>
    protected static void ThrowIfCallerDependsOn(Device device)
    {
        ArgumentNullException.ThrowIfNull(device);
        if (device.Fabric is not { } fabric)
            return;
        lock (fabric.Gate)
            fabric.ThrowIfCallerDependsOn(device);
    }

    /// <inheritdoc/>
    public override string ToString() => Name;

    internal DeviceDirectory Directory { get; } = new();

    internal DeviceList Unbound { get; } = new();

    /// <summary>The devices that are being probed or unbound. Guarded by the fabric's gate.</summary>
    internal HashSet<Device> Busy { get; } = [];

    internal IReadOnlyList<Device> DevicesOf(Driver driver)
    {
        if (Fabric is not { } fabric)
            return [];
        lock (fabric.Gate)
            return driver.Bound.ToArray();
    }

    /// <summary>The drivers that may serve a device by their tables, in registration order. Takes no lock.</summary>
    internal Driver[] Candidates(IDeviceIdentity device)
    {
        if (MatchKey(device) is not { } key)
            return [.. Drivers];
        var keyed = _byKey.TryGetValue(key, out var found) ? found : [];
        var rest = Volatile.Read(ref _withoutKeys);
        if (rest.Length == 0)
            return keyed;
        Driver[] all = [.. keyed, .. rest];
        Array.Sort(all, static (a, b) => a.Order.CompareTo(b.Order));
        return all;
    }

    /// <summary>The devices that a new driver may get, in creation order: those without a driver, and those whose probe or unbind is not over.</summary>
    internal Device[] NotBound()
    {
        Device[] devices = [.. Unbound.ToArray(), .. Busy.Where(d => d.Binding.State != BindingState.Unbound)];
        if (Busy.Count > 0)
            Array.Sort(devices, static (a, b) => a.Sequence.CompareTo(b.Sequence));
        return devices;
    }

    // The index is changed under the fabric's gate only.
    internal void AddDriver(Driver driver, long order)
    {
        if (_drivers.ContainsKey(driver.Name))
            throw new VirtbusException(Errno.EBUSY, $"Driver '{driver.Name}' is already registered on bus {Name}. Unregister it first.");
        var keys = MatchKeys(driver);
        driver.Order = order;
        _drivers.TryAdd(driver.Name, driver);
        Index(driver, keys);
    }

    internal void RemoveDriver(Driver driver)
    {
        Unindex(driver, MatchKeys(driver));
        _drivers.TryRemove(new KeyValuePair<string, Driver>(driver.Name, driver));
    }

    internal void Reindex(Driver driver, IReadOnlyCollection<string>? oldKeys)
    {
        Unindex(driver, oldKeys);
        Index(driver, MatchKeys(driver));
    }

    private void Index(Driver driver, IReadOnlyCollection<string>? keys)
    {
        if (keys is null)
        {
            _withoutKeys = [.. _withoutKeys, driver];
            return;
        }
        foreach (var key in keys)
        {
            _byKey.AddOrUpdate(
                key,
                static (_, d) => [d],
                static (_, old, d) =>
                {
                    if (old.Contains(d))
                        return old;
                    Driver[] all = [.. old, d];
                    Array.Sort(all, static (a, b) => a.Order.CompareTo(b.Order));
                    return all;
                },
                driver);
        }
    }

    private void Unindex(Driver driver, IReadOnlyCollection<string>? keys)
    {
        if (keys is null)
        {
            _withoutKeys = [.. _withoutKeys.Where(d => d != driver)];
            return;
        }
        foreach (var key in keys)
        {
            if (!_byKey.TryGetValue(key, out var old))
                continue;
            Driver[] left = [.. old.Where(d => d != driver)];
            if (left.Length == 0)
                _byKey.TryRemove(key, out _);
            else
                _byKey[key] = left;
        }
    }
}
