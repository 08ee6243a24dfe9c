using System.Collections.Concurrent;
using System.Collections.Frozen;
using System.Diagnostics.CodeAnalysis;
using Microsoft.Extensions.Logging;
using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>
/// One device tree with its buses and classes: the driver core. Transitions (add, bind, unbind, delete, suspend) are asynchronous, one
/// at a time per device, parents before children, siblings side by side. Readers take no part in them and never wait for one.
/// </summary>
/// <remarks>All members are safe to call from any thread.</remarks>
public sealed class Fabric
{
    private readonly ConcurrentDictionary<string, Bus> _buses = new();
    private readonly ConcurrentDictionary<string, Class> _classes = new();
    private readonly HashSet<Task> _work = [];
    private readonly List<DeviceLink> _links = [];
    private readonly Dictionary<Type, object> _subsystems = [];
    private Action<string>[] _modaliasListeners = [];
    private long _sequence;
    private long _driverOrder;

    /// <summary>Makes an empty fabric.</summary>
    /// <param name="options">Scheduler, clock, logs; defaults when null.</param>
    public Fabric(FabricOptions? options = null)
    {
        options ??= new FabricOptions();
        Scheduler = options.Scheduler;
        Time = options.Time;
        LoggerFactory = options.LoggerFactory;
        Log = options.LoggerFactory.CreateLogger("Virtbus.Core");
        Uevents = new UeventLog(options.UeventHistory);
        Transitions = new Transitions(this);
        Binder = new Binder(this);
        PowerTransitions = new PowerTransitions(this);
        Tree = new FabricTree(this);
    }

    /// <summary>Where control-plane work runs.</summary>
    public FabricScheduler Scheduler { get; }

    /// <summary>The clock.</summary>
    public TimeProvider Time { get; }

    /// <summary>Makes the loggers of drivers and subsystems.</summary>
    public ILoggerFactory LoggerFactory { get; }

    /// <summary>The events of the fabric.</summary>
    public UeventLog Uevents { get; }

    /// <summary>The attributes of every object, in one tree with Linux's sysfs names.</summary>
    public FabricTree Tree { get; }

    /// <summary>The buses by name.</summary>
    public IReadOnlyList<Bus> Buses => [.. _buses.Values.OrderBy(b => b.Name, StringComparer.Ordinal)];

    /// <summary>The classes by name.</summary>
    public IReadOnlyList<Class> Classes => [.. _classes.Values.OrderBy(c => c.Name, StringComparer.Ordinal)];

    /// <summary>The devices without a parent, in creation order, at this moment.</summary>
    public IReadOnlyList<Device> RootDevices => Roots.Snapshot();

    /// <summary>The devices whose probe waits for something, with <see cref="Device.DeferredReason"/>.</summary>
    public IReadOnlyList<Device> DeferredDevices => Binder.Deferred;

    /// <summary>Every device, parents before children, in creation order, at this moment.</summary>
    public IEnumerable<Device> AllDevices
    {
        get
        {
            var pending = new Stack<Device>(Roots.Snapshot().Reverse());
            while (pending.TryPop(out var device))
            {
                yield return device;
                foreach (var child in device.ChildrenNewestFirst)
                    pending.Push(child);
            }
        }
    }

    internal Lock Gate { get; } = new();

    /// <summary>How many pieces of work go on beside their caller.</summary>
    internal int WorkCount
    {
        get
        {
            lock (Gate)
                return _work.Count;
        }
    }

    internal ILogger Log { get; }

    internal Transitions Transitions { get; }

    internal Binder Binder { get; }

    internal PowerTransitions PowerTransitions { get; }

    internal DeviceDirectory Roots { get; } = new(byPlace: true);

    /// <summary>Registers a bus.</summary>
    /// <param name="bus">The bus.</param>
    /// <typeparam name="T">The bus's type.</typeparam>
    /// <returns>The bus.</returns>
    /// <exception cref="VirtbusException">EEXIST: a bus of that name is there; EBUSY: the bus is registered with another fabric.</exception>
    public T RegisterBus<T>(T bus)
        where T : Bus
    {
        ArgumentNullException.ThrowIfNull(bus);
        lock (Gate)
        {
            if (_buses.ContainsKey(bus.Name))
                throw new VirtbusException(Errno.EEXIST, $"Bus '{bus.Name}' is already registered. Use the one that is there.");
            if (bus.Fabric is not null)
                throw new VirtbusException(Errno.EBUSY, $"Bus '{bus.Name}' is registered with another fabric. Make a bus for each fabric.");
            bus.Fabric = this;
            _buses.TryAdd(bus.Name, bus);
            Uevents.Emit(UeventAction.Add, "/bus", bus.Name, "bus");
        }
        return bus;
    }

    /// <summary>Takes a bus out.</summary>
    /// <param name="bus">A bus without devices and drivers.</param>
    /// <exception cref="VirtbusException">EBUSY: devices or drivers are left on it; ENODEV: the bus is not registered here.</exception>
    public void UnregisterBus(Bus bus)
    {
        ArgumentNullException.ThrowIfNull(bus);
        lock (Gate)
        {
            if (bus.Fabric != this)
                throw new VirtbusException(Errno.ENODEV, $"Bus {bus.Name} is not registered with this fabric.");
            if (bus.DeviceCount > 0 || bus.Drivers.Count > 0)
                throw new VirtbusException(Errno.EBUSY, $"Bus {bus.Name} has {bus.DeviceCount} devices and {bus.Drivers.Count} drivers. Remove them first.");
            _buses.TryRemove(new KeyValuePair<string, Bus>(bus.Name, bus));
            bus.Fabric = null;
            Uevents.Emit(UeventAction.Remove, "/bus", bus.Name, "bus");
        }
    }

    /// <summary>Finds a bus.</summary>
    /// <param name="name">The bus's name.</param>
    /// <param name="bus">The bus.</param>
    public bool TryGetBus(string name, [NotNullWhen(true)] out Bus? bus) => _buses.TryGetValue(name, out bus);

    /// <summary>The bus of a type, which a driver for it asks for.</summary>
    /// <typeparam name="T">The bus's type.</typeparam>
    /// <exception cref="VirtbusException">ENODEV: no such bus is registered.</exception>
    public T GetBus<T>()
        where T : Bus =>
        _buses.Values.OfType<T>().FirstOrDefault()
        ?? throw new VirtbusException(Errno.ENODEV, $"The fabric has no {typeof(T).Name}. Register the bus first.");

    /// <summary>Registers a class.</summary>
    /// <param name="class">The class.</param>
    /// <returns>The class.</returns>
    /// <exception cref="VirtbusException">EEXIST: a class of that name is there.</exception>
    public Class RegisterClass(Class @class)
    {
        ArgumentNullException.ThrowIfNull(@class);
        if (!_classes.TryAdd(@class.Name, @class))
            throw new VirtbusException(Errno.EEXIST, $"Class '{@class.Name}' is already registered. Use the one that is there.");
        return @class;
    }

    /// <summary>Takes a class out.</summary>
    /// <param name="class">A class without devices.</param>
    /// <exception cref="VirtbusException">EBUSY: devices of it are left; ENODEV: the class is not registered here.</exception>
    public void UnregisterClass(Class @class)
    {
        ArgumentNullException.ThrowIfNull(@class);
        lock (Gate)
        {
            if (!_classes.TryGetValue(@class.Name, out var registered) || registered != @class)
                throw new VirtbusException(Errno.ENODEV, $"Class {@class.Name} is not registered with this fabric.");
            if (!@class.Directory.IsEmpty)
                throw new VirtbusException(Errno.EBUSY, $"Class {@class.Name} has {@class.Directory.Count} devices. Delete them first.");
            _classes.TryRemove(new KeyValuePair<string, Class>(@class.Name, @class));
        }
    }

    /// <summary>Finds a class.</summary>
    /// <param name="name">The class's name.</param>
    /// <param name="class">The class.</param>
    public bool TryGetClass(string name, [NotNullWhen(true)] out Class? @class) => _classes.TryGetValue(name, out @class);

    /// <summary>The subsystem of a type, of which a fabric has one.</summary>
    /// <param name="make">Makes it at the first call; runs under a lock of its own and may register classes and buses.</param>
    /// <typeparam name="T">The subsystem's type.</typeparam>
    public T GetSubsystem<T>(Func<Fabric, T> make)
        where T : class
    {
        ArgumentNullException.ThrowIfNull(make);
        lock (_subsystems)
        {
            if (_subsystems.TryGetValue(typeof(T), out var there))
                return (T)there;
            var made = make(this);
            _subsystems.Add(typeof(T), made);
            return made;
        }
    }

    /// <summary>
    /// Tells an observer of the devices that a class has and of those that come. Each device is announced once and, before it goes,
    /// taken back once; the two never overlap.
    /// </summary>
    /// <param name="class">The class.</param>
    /// <param name="observer">The observer.</param>
    public async ValueTask AddClassObserverAsync(Class @class, IClassObserver observer)
    {
        ArgumentNullException.ThrowIfNull(@class);
        ArgumentNullException.ThrowIfNull(observer);
        ClassObservation observation;
        Device[] there;
        lock (Gate)
        {
            observation = @class.AddObserver(observer);
            there = @class.Directory.Snapshot();
        }
        foreach (var device in there)
            await AnnounceAsync(device, [observation]);
    }

    /// <summary>Tells an observer that the devices of a class go, as far as it is concerned.</summary>
    /// <param name="class">The class.</param>
    /// <param name="observer">The observer.</param>
    public async ValueTask RemoveClassObserverAsync(Class @class, IClassObserver observer)
    {
        ArgumentNullException.ThrowIfNull(@class);
        ClassObservation? observation;
        Device[] known;
        lock (Gate)
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
                await Transitions.RunAsync(device, (this, observation), static (d, a) => a.Item1.TakeBackAsync(d, [a.observation]), mustSucceed: true);
        }
    }

    /// <summary>
    /// Puts a device into the tree, tells the world, and looks for a driver. Returns when the probes of synchronous drivers have ended;
    /// a failed probe is no error of the add. A device added by its parent's probe is probed when that probe has ended.
    /// </summary>
    /// <param name="device">An initialized device. After an error the caller drops its reference; nothing else is to be undone.</param>
    /// <exception cref="VirtbusException">
    /// EEXIST: the name is taken; ENODEV: the parent is not in the tree; EINVAL: the device was added before, or its bus or class is not
    /// registered here.
    /// </exception>
    public async ValueTask AddAsync(Device device)
    {
        ArgumentNullException.ThrowIfNull(device);
        // The bus's and the device's own words are asked for outside the gate; the event itself is numbered in the same step as the entry
        // into the tree, so nothing about the device is told before it.
        var variables = VariablesOrLog(device);
        IReadOnlyList<ClassObservation> observers;
        lock (Gate)
        {
            InsertInGate(device);
            Emit(device, UeventAction.Add, variables);
            observers = device.Class?.Observers ?? [];
        }
        await Scheduler.InterleaveAsync();
        if (observers.Count > 0)
            await AnnounceAsync(device, observers);
        if (device.Bus is not { } bus)
            return;
        if (_modaliasListeners.Length > 0 && ModaliasOrLog(device) is { } modalias)
        {
            foreach (var listener in _modaliasListeners)
                listener(modalias);
        }
        if (bus.DriversAutoprobe)
            await Binder.AttachOrStartAsync(device, only: null);
    }

    /// <summary>
    /// Takes a device out of the tree: a running probe is cancelled and waited for, the devices below it go, newest first, then its driver
    /// is unbound. The creator's reference stays. Deleting twice is harmless; the second call waits for the first.
    /// </summary>
    /// <param name="device">The device.</param>
    /// <exception cref="VirtbusException">
    /// EINVAL: the device was never added; EDEADLK: called from a callback of the device, of one below it or of one that depends on it, or
    /// from one that the device's own transition waits for. The device stays then.
    /// </exception>
    public ValueTask DeleteAsync(Device device)
    {
        ArgumentNullException.ThrowIfNull(device);
        return DeleteAsync(device, mustSucceed: false);
    }

    /// <summary>Adds a device (Linux: device_register); after an error the creator's reference is dropped too, so nothing is left behind.</summary>
    /// <param name="device">An initialized device.</param>
    /// <typeparam name="T">The device's type.</typeparam>
    /// <returns>The device.</returns>
    /// <exception cref="VirtbusException">As <see cref="AddAsync"/>.</exception>
    public async ValueTask<T> RegisterAsync<T>(T device)
        where T : Device
    {
        try
        {
            await AddAsync(device);
            return device;
        }
        catch
        {
            device.Put();
            throw;
        }
    }

    /// <summary>Deletes a device and drops the creator's reference (Linux: device_unregister).</summary>
    /// <param name="device">The device.</param>
    public async ValueTask UnregisterAsync(Device device)
    {
        await DeleteAsync(device);
        device.Put();
    }

    /// <summary>
    /// The hardware behind a device is gone, whatever is going on with it: the device and all below it are marked gone at once, running
    /// probes are cancelled, drivers are unbound, the devices leave the tree. Called from a callback that the removal has to wait for, it
    /// returns at once and the removal follows when the callback has returned.
    /// </summary>
    /// <param name="device">The device.</param>
    /// <exception cref="VirtbusException">EINVAL: the device was never added.</exception>
    public async ValueTask SurpriseRemoveAsync(Device device)
    {
        ArgumentNullException.ThrowIfNull(device);
        var probes = new List<CancellationTokenSource>();
        var gone = new List<Device>();
        lock (Gate)
        {
            if (device.Fabric != this)
                throw NeverAdded(device);
            MarkGone(device);
        }
        foreach (var probe in probes)
            Cancel(device, probe);
        foreach (var d in gone)
            TellGone(d);
        try
        {
            await DeleteAsync(device);
        }
        catch (VirtbusException e) when (e.Errno == Errno.EDEADLK)
        {
            StartWork("surprise removal of " + device.Name, () => DeleteAsync(device).AsTask());
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

    /// <summary>Registers a driver and binds the devices that it serves. Which of driver and device came first makes no difference.</summary>
    /// <param name="driver">The driver.</param>
    /// <exception cref="VirtbusException">EBUSY: a driver of that name is on the bus; EINVAL: its bus is not registered here.</exception>
    public async ValueTask RegisterDriverAsync(Driver driver)
    {
        ArgumentNullException.ThrowIfNull(driver);
        var bus = driver.Bus;
        Device[] free;
        lock (Gate)
        {
            if (bus.Fabric != this)
                throw new VirtbusException(Errno.EINVAL, $"Driver {driver.Name} is for bus {bus.Name}, which is not registered with this fabric. Register the bus first.");
            bus.AddDriver(driver, ++_driverOrder);
            driver.IsRegistered = true;
            Uevents.Emit(UeventAction.Add, DriverFolder(driver), driver.Name, "drivers");
            free = bus.DriversAutoprobe ? bus.NotBound() : [];
        }
        await Binder.AttachManyAsync([.. free.Where(d => Binder.Match(d, driver) is not null)], driver);
    }

    /// <summary>Unbinds every device of a driver, newest first, and takes the driver out.</summary>
    /// <param name="driver">The driver.</param>
    /// <exception cref="VirtbusException">ENODEV: the driver is not registered; EDEADLK: called from a callback that an unbind would wait for. The driver stays then.</exception>
    public async ValueTask UnregisterDriverAsync(Driver driver)
    {
        ArgumentNullException.ThrowIfNull(driver);
        lock (Gate)
        {
            if (!driver.IsRegistered)
                throw new VirtbusException(Errno.ENODEV, $"Driver {driver.Name} is not registered on bus {driver.Bus.Name}.");
            foreach (var device in driver.Bound.ToArray())
                ThrowIfCallerDependsOn(device);
            // No new probe begins from here on. The name stays taken until the last device is unbound.
            driver.IsRegistered = false;
        }
        try
        {
            while (true)
            {
                Device[] bound;
                lock (Gate)
                    bound = driver.Bound.ToArray();
                if (bound.Length == 0)
                    break;
                foreach (var device in bound.Reverse())
                    await Binder.UnbindAsync(device, driver);
            }
        }
        catch
        {
            lock (Gate)
                driver.IsRegistered = true;
            throw;
        }
        lock (Gate)
        {
            driver.Bus.RemoveDriver(driver);
            Uevents.Emit(UeventAction.Remove, DriverFolder(driver), driver.Name, "drivers");
        }
    }

    /// <summary>
    /// Changes a driver's id table and binds devices that it serves now. Buses use it for dynamic ids.
    /// </summary>
    /// <param name="driver">A registered driver.</param>
    /// <param name="change">Changes the table; runs under a lock, so it must be short and must not call the fabric.</param>
    public async ValueTask ChangeIdsAsync(Driver driver, Action change)
    {
        ArgumentNullException.ThrowIfNull(driver);
        ArgumentNullException.ThrowIfNull(change);
        Device[] free;
        lock (Gate)
        {
            var old = driver.Bus.MatchKeys(driver);
            change();
            if (!driver.IsRegistered)
                return;
            driver.Bus.Reindex(driver, old);
            free = driver.Bus.NotBound();
        }
        await Binder.AttachManyAsync([.. free.Where(d => Binder.Match(d, driver) is not null)], driver);
    }

    /// <summary>Binds a device to a driver, as a write to the driver's <c>bind</c> does.</summary>
    /// <param name="driver">The driver.</param>
    /// <param name="deviceName">The device's name on the driver's bus.</param>
    /// <exception cref="VirtbusException">ENODEV: no such device, or the driver does not serve it; EBUSY: it is bound; EAGAIN: the probe was deferred; else the probe's error.</exception>
    public async ValueTask BindAsync(Driver driver, string deviceName)
    {
        ArgumentNullException.ThrowIfNull(driver);
        var device = FindOnBus(driver.Bus, deviceName);
        if (device.Driver is { } bound)
            throw AlreadyBound(device, bound);
        if (Binder.Match(device, driver) is null)
            throw new VirtbusException(Errno.ENODEV, DoesNotServe(driver, device));
        var outcome = await Binder.AttachAsync(device, driver);
        ThrowIfNotBound(device, driver, outcome);
    }

    /// <summary>Unbinds a device from a driver, as a write to the driver's <c>unbind</c> does.</summary>
    /// <param name="driver">The driver.</param>
    /// <param name="deviceName">The device's name on the driver's bus.</param>
    /// <exception cref="VirtbusException">ENODEV: no such device, or it is not bound to this driver.</exception>
    public async ValueTask UnbindAsync(Driver driver, string deviceName)
    {
        ArgumentNullException.ThrowIfNull(driver);
        var device = FindOnBus(driver.Bus, deviceName);
        if (await Binder.UnbindAsync(device, driver))
            return;
        var now = device.Driver is { } other ? $"is bound to {other.Name}" : "has no driver";
        throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} is not bound to {driver.Name}: it {now}.");
    }

    /// <summary>Looks for a driver for a device as when it was plugged in, as a write to the bus's <c>drivers_probe</c> does.</summary>
    /// <param name="bus">The bus.</param>
    /// <param name="deviceName">The device's name on the bus.</param>
    /// <exception cref="VirtbusException">
    /// ENODEV: no such device; EINVAL: it waits for a supplier, so no driver was tried. That no driver serves it, or that every probe failed or
    /// was deferred, is no error of the look.
    /// </exception>
    public async ValueTask ProbeAsync(Bus bus, string deviceName)
    {
        ArgumentNullException.ThrowIfNull(bus);
        var device = FindOnBus(bus, deviceName);
        var outcome = await Binder.AttachAsync(device);
        if (outcome.Result == AttachResult.Gone)
            throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} was removed meanwhile.");
        if (outcome is { Result: AttachResult.Deferred, Error: null })
            throw new VirtbusException(Errno.EINVAL, $"Device {device.Name} is not probed yet: {device.DeferredReason ?? "it is tried again"}. It is tried again when that is there.");
    }

    /// <summary>Sets or clears the only driver name that may bind a device. Takes effect at the next bind; nothing is unbound.</summary>
    /// <param name="device">A device on a bus that has overrides.</param>
    /// <param name="driverName">The name; null or empty to clear.</param>
    /// <exception cref="VirtbusException">EOPNOTSUPP: the bus has no overrides; EINVAL: the name is too long.</exception>
    public void SetDriverOverride(Device device, string? driverName)
    {
        ArgumentNullException.ThrowIfNull(device);
        if (device.Bus is not { HasDriverOverride: true })
            throw new VirtbusException(Errno.EOPNOTSUPP, $"Device {device.Name} is on {(device.Bus is null ? "no bus" : "bus " + device.Bus.Name)}, which has no driver_override.");
        if (driverName?.Length > ObjectAttribute.MaxStoreBytes - 2)
            throw new VirtbusException(Errno.EINVAL, $"driver_override of {device.Name}: the name has {driverName.Length} characters, which no driver's name has.");
        device.DriverOverride = string.IsNullOrEmpty(driverName) ? null : driverName;
    }

    /// <summary>
    /// Runs work with the device's transition held (Linux: device_lock): no probe, unbind or removal of it is under way meanwhile. What the
    /// work does runs as a callback of the device.
    /// </summary>
    /// <param name="device">The device.</param>
    /// <param name="work">The work.</param>
    /// <exception cref="VirtbusException">ENODEV: the device is not in the tree; EDEADLK: the caller would wait for itself; or what the work throws.</exception>
    public async ValueTask RunExclusiveAsync(Device device, Func<ValueTask> work)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(work);
        await Transitions.RunAsync(device, work, async static (d, w) =>
        {
            if (d.State != DeviceState.Added || d.IsOut)
                throw new VirtbusException(Errno.ENODEV, $"Device {d.Name} was removed meanwhile.");
            await w();
            return true;
        });
    }

    /// <summary>
    /// Makes a consumer depend on a supplier. Devices that are linked already keep their link, which becomes what all requests together ask
    /// for: the longer life wins, a stateless link becomes managed, and <see cref="DeviceLinkFlags.PmRuntime"/> counts from the consumer's next
    /// resume on.
    /// </summary>
    /// <param name="consumer">The device that needs the other.</param>
    /// <param name="supplier">A device in the tree.</param>
    /// <param name="flags">How the link behaves. Waking the supplier at once takes <see cref="AddLinkAsync"/>.</param>
    /// <returns>The link of the two.</returns>
    /// <exception cref="VirtbusException">EINVAL: the supplier is not in the tree, or depends on the consumer, or the flags contradict each other.</exception>
    public DeviceLink AddLink(Device consumer, Device supplier, DeviceLinkFlags flags = DeviceLinkFlags.None)
    {
        ArgumentNullException.ThrowIfNull(consumer);
        ArgumentNullException.ThrowIfNull(supplier);
        ThrowIfContradictory(consumer, supplier, flags);
        if (WakesSupplier(flags))
            throw new VirtbusException(Errno.EINVAL, $"Link {supplier.Name} -> {consumer.Name}: {nameof(DeviceLinkFlags.RpmActive)} waits until {supplier.Name} is awake. Use {nameof(AddLinkAsync)}.");
        lock (Gate)
            return AddLinkInGate(consumer, supplier, flags);
    }

    /// <summary>Makes a consumer depend on a supplier as <see cref="AddLink"/> does, and wakes the supplier first when the flags ask for it.</summary>
    /// <param name="consumer">The device that needs the other.</param>
    /// <param name="supplier">A device in the tree.</param>
    /// <param name="flags">How the link behaves.</param>
    /// <param name="cancellationToken">Ends the wait for the supplier.</param>
    /// <returns>The link of the two.</returns>
    /// <exception cref="VirtbusException">As <see cref="AddLink"/>, or the supplier does not wake; there is no new link then.</exception>
    public async ValueTask<DeviceLink> AddLinkAsync(Device consumer, Device supplier, DeviceLinkFlags flags = DeviceLinkFlags.None, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(consumer);
        ArgumentNullException.ThrowIfNull(supplier);
        if (!WakesSupplier(flags))
            return AddLink(consumer, supplier, flags);
        ThrowIfContradictory(consumer, supplier, flags);
        await supplier.Power.RuntimeGetAsync(cancellationToken);
        try
        {
            lock (Gate)
            {
                var link = AddLinkInGate(consumer, supplier, flags);
                link.TryKeepUse();
                return link;
            }
        }
        catch
        {
            await supplier.Power.LetGoAsync();
            throw;
        }
    }

    private static bool WakesSupplier(DeviceLinkFlags flags) => flags.HasFlag(DeviceLinkFlags.PmRuntime | DeviceLinkFlags.RpmActive);

    // What of a request makes no sense whatever the devices are.
    private static void ThrowIfContradictory(Device consumer, Device supplier, DeviceLinkFlags flags)
    {
        if ((flags & ~LinkFlags) != DeviceLinkFlags.None)
            throw new VirtbusException(Errno.EINVAL, $"Link {supplier.Name} -> {consumer.Name}: 0x{(int)(flags & ~LinkFlags):x} is no flag of a link. Leave these bits out.");
        if (flags.HasFlag(DeviceLinkFlags.Stateless) && (flags & ManagedFlags) != DeviceLinkFlags.None)
            throw new VirtbusException(Errno.EINVAL, $"Link {supplier.Name} -> {consumer.Name}: a stateless link does not follow binding, so {flags & ManagedFlags} has no meaning. Drop one of them.");
        if (flags.HasFlag(DeviceLinkFlags.AutoprobeConsumer) && (flags & AutoremoveFlags) != DeviceLinkFlags.None)
            throw new VirtbusException(Errno.EINVAL, $"Link {supplier.Name} -> {consumer.Name}: {nameof(DeviceLinkFlags.AutoprobeConsumer)} is for a link that outlives an unbind, {flags & AutoremoveFlags} for one that does not. Drop one of them.");
    }

    private DeviceLink AddLinkInGate(Device consumer, Device supplier, DeviceLinkFlags flags)
    {
        if (supplier.State != DeviceState.Added || consumer.State is DeviceState.Deleted or DeviceState.Released)
            throw new VirtbusException(Errno.EINVAL, $"Link {supplier.Name} -> {consumer.Name}: {(supplier.State != DeviceState.Added ? supplier.Name : consumer.Name)} is not in the tree.");
        if (DependsOn(supplier, consumer))
            throw new VirtbusException(Errno.EINVAL, $"Link {supplier.Name} -> {consumer.Name}: {supplier.Name} itself depends on {consumer.Name}. Links must not form a circle.");
        // Asked for together, the one that keeps the link longer counts.
        if (flags.HasFlag(DeviceLinkFlags.AutoremoveSupplier))
            flags &= ~DeviceLinkFlags.AutoremoveConsumer;
        if (consumer.Links?.Suppliers.FirstOrDefault(l => l.Supplier == supplier) is { } there)
        {
            there.Add(flags, isFirst: false);
            return there;
        }
        var link = new DeviceLink(supplier, consumer);
        link.Add(flags, isFirst: true);
        var ofConsumer = consumer.Links ??= new DeviceLinks();
        var ofSupplier = supplier.Links ??= new DeviceLinks();
        ofConsumer.Suppliers = [.. ofConsumer.Suppliers, link];
        ofSupplier.Consumers = [.. ofSupplier.Consumers, link];
        _links.Add(link);
        return link;
    }

    /// <summary>
    /// Takes a stateless request for a link back; the link goes with the last one, unless it is managed as well. A managed link goes with its
    /// devices or, by its autoremove flag, at an unbind. Harmless for a link that is gone.
    /// </summary>
    /// <param name="link">The link.</param>
    /// <exception cref="VirtbusException">EINVAL: no stateless request is left, and the consumer is in the tree.</exception>
    public void RemoveLink(DeviceLink link)
    {
        ArgumentNullException.ThrowIfNull(link);
        lock (Gate)
        {
            if (!_links.Contains(link))
                return;
            if (!link.IsStateless && link.Consumer.State == DeviceState.Added)
                throw new VirtbusException(Errno.EINVAL, $"Link {link.Supplier.Name} -> {link.Consumer.Name} is managed: it goes with one of the two devices, or at an unbind when it has an autoremove flag. Make it {nameof(DeviceLinkFlags.Stateless)} to remove it by hand.");
            if (!link.IsStateless || link.RemoveStateless())
                RemoveLinkInGate(link);
        }
    }

    /// <summary>The links of the fabric.</summary>
    public IReadOnlyList<DeviceLink> Links
    {
        get
        {
            lock (Gate)
                return [.. _links];
        }
    }

    /// <summary>Puts a device, what is below it and what depends on these to sleep; all devices when <paramref name="device"/> is null.</summary>
    /// <param name="device">The top of the part that sleeps.</param>
    /// <exception cref="VirtbusException">
    /// EBUSY: another power transition is under way; EDEADLK: called from a callback; else what a driver answered, after what this call put to
    /// sleep was woken again.
    /// </exception>
    public ValueTask SuspendAsync(Device? device = null) => PowerTransitions.SuspendAsync(device);

    /// <summary>Wakes what <see cref="SuspendAsync"/> put to sleep, in reverse order.</summary>
    /// <param name="device">The top of the part that wakes.</param>
    /// <exception cref="VirtbusException">EBUSY: another power transition is under way, or a device above or a supplier sleeps; EDEADLK: called from a callback.</exception>
    public ValueTask ResumeAsync(Device? device = null) => PowerTransitions.ResumeAsync(device);

    /// <summary>Calls the shutdown of every bound driver, children before parents, newest first. Errors are logged.</summary>
    public ValueTask ShutdownAsync() => PowerTransitions.ShutdownAsync();

    /// <summary>
    /// Waits until nothing goes on beside its caller: asynchronous and deferred probes, module loads, and what they start. Not to be called
    /// from such work, which would wait for itself.
    /// </summary>
    /// <param name="cancellationToken">Ends the wait.</param>
    public async Task SettleAsync(CancellationToken cancellationToken = default)
    {
        while (true)
        {
            Task[] work;
            lock (Gate)
                work = [.. _work];
            if (work.Length == 0)
                return;
            // One by one: a combined task is completed on the thread pool, past the fabric's scheduler.
            foreach (var one in work)
                await one.WaitAsync(cancellationToken);
        }
    }

    /// <summary>Emits an event for a device; nothing is told of one that left the tree.</summary>
    /// <param name="device">The device.</param>
    /// <param name="action">What happened.</param>
    /// <param name="variables">More variables.</param>
    public void EmitUevent(Device device, UeventAction action, params KeyValuePair<string, string>[] variables)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(variables);
        var all = VariablesOf(device);
        foreach (var (key, value) in variables)
            all.Add(key, value);
        lock (Gate)
        {
            if (!device.IsOut)
                Emit(device, action, all);
        }
    }

    /// <summary>Starts work beside the caller; <see cref="SettleAsync"/> waits for it, its errors are logged.</summary>
    /// <param name="name">What the work is, for the log.</param>
    /// <param name="work">The work.</param>
    public void StartWork(string name, Func<Task> work)
    {
        ArgumentNullException.ThrowIfNull(work);
        var started = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        lock (Gate)
            _work.Add(started.Task);
        _ = Scheduler.Start(async () =>
        {
            try
            {
                await Scheduler.InterleaveAsync();
                await work();
            }
            catch (Exception e)
            {
                FabricLog.WorkFailed(Log, name, e);
            }
            finally
            {
                lock (Gate)
                    _work.Remove(started.Task);
                started.SetResult();
            }
        });
    }

    internal void AddModaliasListener(Action<string> listener)
    {
        lock (Gate)
            _modaliasListeners = [.. _modaliasListeners, listener];
    }

    internal void RemoveModaliasListener(Action<string> listener)
    {
        lock (Gate)
            _modaliasListeners = [.. _modaliasListeners.Where(l => l != listener)];
    }

    internal static string DriverFolder(Driver driver) => $"/bus/{driver.Bus.Name}/drivers";

    internal static string DriverPath(Driver driver) => $"{DriverFolder(driver)}/{driver.Name}";

    internal UeventVariables VariablesOf(Device device)
    {
        var variables = new UeventVariables();
        if (device.Driver is { } driver)
            variables.Add("DRIVER", driver.Name);
        if (device.Modalias is { } modalias)
            variables.Add("MODALIAS", modalias);
        device.Bus?.AddUeventVariables(device, variables);
        device.AddUeventVariables(variables);
        return variables;
    }

    // An event of the core's own is told whatever the bus or the device have to say to it.
    internal void EmitFor(Device device, UeventAction action) =>
        Emit(device, action, VariablesOrLog(device));

    private void Emit(Device device, UeventAction action, UeventVariables variables) =>
        Uevents.Emit(action, device.Folder, device.Place, device.Subsystem ?? "", variables);

    /// <summary>Refuses what a callback asks for when it would wait for the callback: it takes along what depends on the device.</summary>
    internal void ThrowIfCallerDependsOn(Device device)
    {
        for (var frame = Transitions.Ambient; frame is not null; frame = frame.Outer)
        {
            if (frame.Device is { } held && DependsOn(held, device))
            {
                throw new VirtbusException(
                    Errno.EDEADLK,
                    $"Device {device.Name} can't be unbound or deleted from a callback of {held.Name}, which goes with it. Do it after the callback has returned.");
            }
        }
    }

    internal void Cancel(Device device, CancellationTokenSource? source)
    {
        try
        {
            source?.Cancel();
        }
        catch (AggregateException e)
        {
            FabricLog.CancelFailed(Log, device.Name, e);
        }
    }

    internal void RemoveLinkInGate(DeviceLink link)
    {
        if (!_links.Remove(link))
            return;
        link.Consumer.Links!.Suppliers = [.. link.Consumer.Links.Suppliers.Where(l => l != link)];
        link.Supplier.Links!.Consumers = [.. link.Supplier.Links.Consumers.Where(l => l != link)];
        // A supplier that leaves has forgotten its uses already.
        if (link.TakeUses(last: true) is > 0 and var uses && link.Supplier.State == DeviceState.Added)
            StartWork("runtime idle of " + link.Supplier.Name, () => link.Supplier.Power.LetGoAsync(uses).AsTask());
        RetryConsumerInGate(link);
    }

    internal void EndManagedInGate(DeviceLink link)
    {
        if (link.EndManaged())
            RemoveLinkInGate(link);
        else
            RetryConsumerInGate(link);
    }

    // It may have waited for this supplier only.
    private void RetryConsumerInGate(DeviceLink link)
    {
        if (link.Consumer.IsDeferred)
            Binder.RetryInGate();
    }

    private void InsertInGate(Device device)
    {
        if (device.AddedOnce)
            throw new VirtbusException(Errno.EINVAL, $"Device {device.Name} was added before. Make a new device.");
        if (device.Bus is { } bus && bus.Fabric != this)
            throw new VirtbusException(Errno.EINVAL, $"Device {device.Name} is for bus {bus.Name}, which is not registered with this fabric. Register the bus first.");
        if (device.Class is { } @class && !(_classes.TryGetValue(@class.Name, out var registered) && registered == @class))
            throw new VirtbusException(Errno.EINVAL, $"Device {device.Name} is of class {@class.Name}, which is not registered with this fabric. Register the class first.");
        if (device.Parent is { } parent && (parent.State != DeviceState.Added || parent.IsGone || parent.Fabric != this))
            throw new VirtbusException(Errno.ENODEV, $"Device {device.Name}: its parent {parent.Name} is not in the tree. Add the parent first.");
        if (device.Bus is { } b && b.TryGetDevice(device.Name, out _))
            throw Duplicate(device, $"bus {b.Name}");
        if (device.Class is { } c && c.TryGetDevice(device.Name, out _))
            throw Duplicate(device, $"class {c.Name}");
        if (device.Parent is null ? device.Place == "virtual" : OwnFiles.Contains(device.Place))
            throw Duplicate(device, device.Parent?.DevPath ?? "/devices");
        var siblings = device.Parent?.ChildDirectory ?? Roots;
        if (!siblings.TryAdd(device))
            throw Duplicate(device, device.Parent?.DevPath ?? "/devices");
        device.AddedOnce = true;
        device.Sequence = ++_sequence;
        device.Fabric = this;
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

    internal async ValueTask DeleteAsync(Device device, bool mustSucceed)
    {
        TransitionFrame frame;
        TransitionWaiter? waiter;
        CancellationTokenSource? probe;
        lock (Gate)
        {
            if (device.Fabric != this)
                throw NeverAdded(device);
            if (device.IsOut)
                return;
            if (!mustSucceed)
                ThrowIfCallerDependsOn(device);
            frame = Transitions.EnterInGate(device, mustSucceed, out waiter);
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
        if (await Transitions.RunHeldAsync(device, frame, this, static (d, fabric) => fabric.DeleteInTransitionAsync(d)))
            device.Put();
    }

    private void StayAfterRefusedDelete(Device device)
    {
        lock (Gate)
        {
            if (--device.Deletes > 0 || device.IsOut)
                return;
            device.State = DeviceState.Added;
            if (device.Bus is { } bus && device is { List: null, Binding.State: BindingState.Unbound })
                bus.Unbound.Add(device);
        }
        // Its probe may have been cancelled, or an attempt turned away.
        if (device is { IsGone: false, Bus.DriversAutoprobe: true })
            StartWork("probe of " + device.Name, () => Binder.AttachAsync(device).AsTask());
    }

    private async ValueTask<bool> DeleteInTransitionAsync(Device device)
    {
        if (device.IsOut)
            return false;
        await LeaveAsync(device);
        if (device.Class is { } @class)
        {
            IReadOnlyList<ClassObservation> observers;
            lock (Gate)
            {
                observers = @class.Observers;
                @class.Directory.Remove(device);
            }
            await TakeBackAsync(device, observers);
        }
        // Children before parents: what hangs below still has a working parent while it is unbound.
        foreach (var child in device.ChildrenNewestFirst)
            await DeleteAsync(child, mustSucceed: true);
        await Binder.UnbindInTransitionAsync(device, null);
        await Binder.ReleaseLeftoversAsync(device);
        if (device.PowerState is { } power)
            await power.ForgetUsesAsync();
        var variables = VariablesOrLog(device);
        lock (Gate)
        {
            Binder.ForgetInGate(device);
            foreach (var link in device.Links?.Suppliers.Concat(device.Links.Consumers) ?? [])
                RemoveLinkInGate(link);
            DeviceList.Remove(device);
            device.Bus?.Directory.Remove(device);
            (device.Parent?.ChildDirectory ?? Roots).Remove(device);
            device.IsOut = true;
            Emit(device, UeventAction.Remove, variables);
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
            FabricLog.LeavingFailed(Log, device.Name, e);
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
            FabricLog.LeavingFailed(Log, device.Name, e);
        }
    }

    private async ValueTask AnnounceAsync(Device device, IReadOnlyList<ClassObservation> observers)
    {
        if (Transitions.Holds(device))
            await AnnounceInTransitionAsync(device, observers);
        else
            await Transitions.RunAsync(device, (this, observers), static (d, a) => a.Item1.AnnounceInTransitionAsync(d, a.observers), mustSucceed: true);
    }

    private async ValueTask<bool> AnnounceInTransitionAsync(Device device, IReadOnlyList<ClassObservation> observers)
    {
        foreach (var observation in observers)
        {
            lock (Gate)
            {
                // Deleted meanwhile, or the observer left, or it was told by the other of the two ways.
                if (device.State != DeviceState.Added || observation.IsOver || !observation.Known.Add(device))
                    continue;
            }
            await ObserveAsync(device, observation.Observer, static (o, d) => o.DeviceAddedAsync(d));
        }
        return true;
    }

    private async ValueTask<bool> TakeBackAsync(Device device, IReadOnlyList<ClassObservation> observers)
    {
        foreach (var observation in observers)
        {
            lock (Gate)
            {
                if (!observation.Known.Remove(device))
                    continue;
            }
            await ObserveAsync(device, observation.Observer, static (o, d) => o.DeviceRemovedAsync(d));
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
            FabricLog.ObserverFailed(Log, device.Name, device.Class!.Name, e);
        }
    }

    private UeventVariables VariablesOrLog(Device device)
    {
        try
        {
            return VariablesOf(device);
        }
        catch (Exception e)
        {
            FabricLog.UeventVariablesFailed(Log, device.Name, e);
            return new UeventVariables();
        }
    }

    private string? ModaliasOrLog(Device device)
    {
        try
        {
            return device.Modalias;
        }
        catch (Exception e)
        {
            FabricLog.UeventVariablesFailed(Log, device.Name, e);
            return null;
        }
    }

    private static VirtbusException NeverAdded(Device device) =>
        new(Errno.EINVAL, $"Device {device.Name} is not in this fabric. Only a device that was added can be deleted.");

    private static Device FindOnBus(Bus bus, string deviceName) =>
        bus.TryGetDevice(deviceName, out var device)
            ? device
            : throw new VirtbusException(Errno.ENODEV, deviceName.Length == 0
                ? $"No device was named. Write the name of a device on bus {bus.Name}."
                : $"Bus {bus.Name} has no device '{deviceName}'. '/bus/{bus.Name}/devices' lists those there are.");

    private static VirtbusException AlreadyBound(Device device, Driver driver) =>
        new(Errno.EBUSY, $"Device {device.Name} is bound to {driver.Name}. Unbind it first.");

    private static string DoesNotServe(Driver driver, Device device) =>
        device.DriverOverride is { } wanted && wanted != driver.Name
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

    // Linux: device_is_dependent. Children and consumers of a device depend on it, and what else it names.
    private static bool DependsOn(Device device, Device on)
    {
        if (device == on)
            return true;
        var seen = new HashSet<Device> { on };
        var pending = new Stack<Device>([on]);
        while (pending.TryPop(out var next))
        {
            foreach (var dependent in next.Children.Concat(next.Links?.Consumers.Select(l => l.Consumer) ?? []).Concat(next.Dependents))
            {
                if (dependent == device)
                    return true;
                if (seen.Add(dependent))
                    pending.Push(dependent);
            }
        }
        return false;
    }

    // What the directory of every device has; a child of such a name could not be told from it.
    private static readonly FrozenSet<string> OwnFiles = FrozenSet.Create(
        StringComparer.Ordinal, "device", "driver", "driver_override", "modalias", "power", "subsystem", "uevent", "waiting_for_supplier");

    private const DeviceLinkFlags AutoremoveFlags = DeviceLinkFlags.AutoremoveConsumer | DeviceLinkFlags.AutoremoveSupplier;

    private const DeviceLinkFlags ManagedFlags = AutoremoveFlags | DeviceLinkFlags.AutoprobeConsumer;

    private const DeviceLinkFlags LinkFlags = ManagedFlags | DeviceLinkFlags.Stateless | DeviceLinkFlags.PmRuntime | DeviceLinkFlags.RpmActive;
}
