using System.Collections.Concurrent;
using System.Diagnostics.CodeAnalysis;
using Microsoft.Extensions.Logging;
using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>
/// One device tree with its buses and classes: the driver core. Transitions (add, bind, unbind, delete, suspend) are asynchronous, one
/// at a time per device, parents before children, siblings side by side. Readers take no part in them and never wait for one.
/// </summary>
/// <remarks>
/// All members are safe to call from any thread. The file is long by the words of its calls; what they do is done by the types behind it.
/// </remarks>
public sealed class Fabric
{
    private readonly ConcurrentDictionary<string, Bus> _buses = new();
    private readonly ConcurrentDictionary<string, Class> _classes = new();
    private readonly Dictionary<Type, object> _subsystems = [];
    private readonly WorkBeside _work;

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
        Drivers = new DriverRegistry(this);
        _work = new WorkBeside(this);
        Life = new DeviceLife(this);
        LinkTable = new LinkTable(this);
        Observers = new ClassObservers(this);
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
    public IReadOnlyList<Device> DeferredDevices => Binder.Deferred.Snapshot();

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
    internal int WorkCount => _work.Count;

    internal ILogger Log { get; }

    internal Transitions Transitions { get; }

    internal DriverRegistry Drivers { get; }

    internal Binder Binder { get; }

    internal PowerTransitions PowerTransitions { get; }

    internal DeviceLife Life { get; }

    internal LinkTable LinkTable { get; }

    internal ClassObservers Observers { get; }

    internal ChildDirectory Roots { get; } = new(parent: null);

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
    public ValueTask AddClassObserverAsync(Class @class, IClassObserver observer) =>
        Observers.AddAsync(@class, observer);

    /// <summary>Tells an observer that the devices of a class go, as far as it is concerned.</summary>
    /// <param name="class">The class.</param>
    /// <param name="observer">The observer.</param>
    public ValueTask RemoveClassObserverAsync(Class @class, IClassObserver observer) =>
        Observers.RemoveAsync(@class, observer);

    /// <summary>
    /// Puts a device into the tree, tells the world, and looks for a driver. Returns when the probes of synchronous drivers have ended;
    /// a failed probe is no error of the add. A device added by its parent's probe is probed when that probe has ended.
    /// </summary>
    /// <param name="device">An initialized device. After an error the caller drops its reference; nothing else is to be undone.</param>
    /// <exception cref="VirtbusException">
    /// EEXIST: the name is taken; ENODEV: the parent is not in the tree; EINVAL: the device was added before, or its bus or class is not
    /// registered here.
    /// </exception>
    public ValueTask AddAsync(Device device) =>
        Life.AddAsync(device);

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
        return Life.DeleteAsync(device, mustSucceed: false);
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
    public ValueTask SurpriseRemoveAsync(Device device) =>
        Life.SurpriseRemoveAsync(device);

    /// <summary>Registers a driver and binds the devices that it serves. Which of driver and device came first makes no difference.</summary>
    /// <param name="driver">The driver.</param>
    /// <exception cref="VirtbusException">EBUSY: a driver of that name is on the bus; EINVAL: its bus is not registered here.</exception>
    public ValueTask RegisterDriverAsync(Driver driver) =>
        Drivers.RegisterAsync(driver);

    /// <summary>Unbinds every device of a driver, newest first, and takes the driver out.</summary>
    /// <param name="driver">The driver.</param>
    /// <exception cref="VirtbusException">ENODEV: the driver is not registered; EDEADLK: called from a callback that an unbind would wait for. The driver stays then.</exception>
    public ValueTask UnregisterDriverAsync(Driver driver) =>
        Drivers.UnregisterAsync(driver);

    /// <summary>
    /// Changes a driver's id table and binds devices that it serves now. Buses use it for dynamic ids.
    /// </summary>
    /// <param name="driver">A registered driver.</param>
    /// <param name="change">Changes the table; runs under a lock, so it must be short and must not call the fabric.</param>
    public ValueTask ChangeIdsAsync(Driver driver, Action change) =>
        Drivers.ChangeIdsAsync(driver, change);

    /// <summary>Binds a device to a driver, as a write to the driver's <c>bind</c> does.</summary>
    /// <param name="driver">The driver.</param>
    /// <param name="deviceName">The device's name on the driver's bus.</param>
    /// <exception cref="VirtbusException">ENODEV: no such device, or the driver does not serve it; EBUSY: it is bound; EAGAIN: the probe was deferred; else the probe's error.</exception>
    public ValueTask BindAsync(Driver driver, string deviceName) =>
        Drivers.BindAsync(driver, deviceName);

    /// <summary>Unbinds a device from a driver, as a write to the driver's <c>unbind</c> does.</summary>
    /// <param name="driver">The driver.</param>
    /// <param name="deviceName">The device's name on the driver's bus.</param>
    /// <exception cref="VirtbusException">ENODEV: no such device, or it is not bound to this driver.</exception>
    public ValueTask UnbindAsync(Driver driver, string deviceName) =>
        Drivers.UnbindAsync(driver, deviceName);

    /// <summary>Looks for a driver for a device as when it was plugged in, as a write to the bus's <c>drivers_probe</c> does.</summary>
    /// <param name="bus">The bus.</param>
    /// <param name="deviceName">The device's name on the bus.</param>
    /// <exception cref="VirtbusException">
    /// ENODEV: no such device; EINVAL: it waits for a supplier, so no driver was tried. That no driver serves it, or that every probe failed or
    /// was deferred, is no error of the look.
    /// </exception>
    public ValueTask ProbeAsync(Bus bus, string deviceName) =>
        Drivers.ProbeAsync(bus, deviceName);

    /// <summary>Sets or clears the only driver name that may bind a device. Takes effect at the next bind; nothing is unbound.</summary>
    /// <param name="device">A device on a bus that has overrides.</param>
    /// <param name="driverName">The name; null or empty to clear.</param>
    /// <exception cref="VirtbusException">EOPNOTSUPP: the bus has no overrides; EINVAL: the name is too long.</exception>
    public void SetDriverOverride(Device device, string? driverName)
    {
        ArgumentNullException.ThrowIfNull(device);
        OverrideRule.Set(device, driverName);
    }

    /// <summary>
    /// Leaves a device to a driver of the caller's choice and binds it to that one, as one request: <see cref="SetDriverOverride"/>, an unbind from
    /// another driver and the bind are one transition of the device, in which nobody else comes in between. A driver that is not there is
    /// brought by its module. What can't be is refused before anything changes; a probe that fails leaves the device to that driver, unbound.
    /// </summary>
    /// <param name="device">A device on a bus that has overrides.</param>
    /// <param name="driverName">The driver; null or empty to clear the override, after which the bus chooses anew.</param>
    /// <exception cref="VirtbusException">
    /// ENOENT: no such driver, and no module that brings it; EOPNOTSUPP, EINVAL: as <see cref="SetDriverOverride"/>; EDEADLK: called from a callback
    /// of the device; ENODEV: the device is gone; else what the module or the probe answers.
    /// </exception>
    public ValueTask OverrideDriverAsync(Device device, string? driverName) => Drivers.OverrideAsync(device, driverName);

    /// <summary>
    /// Runs work with the device's transition held (Linux: device_lock): no probe, unbind or removal of it is under way meanwhile. What the
    /// work does runs as a callback of the device.
    /// </summary>
    /// <param name="device">The device.</param>
    /// <param name="work">The work.</param>
    /// <param name="cancellationToken">Ends the wait for the transition; the work is not begun then.</param>
    /// <exception cref="VirtbusException">ENODEV: the device is not in the tree; EDEADLK: the caller would wait for itself; or what the work throws.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled before the work began.</exception>
    public async ValueTask RunExclusiveAsync(Device device, Func<ValueTask> work, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(work);
        await Transitions.RunAsync(
            device,
            work,
            async static (d, w) =>
            {
                if (d.State != DeviceState.Added || d.IsOut)
                    throw new VirtbusException(Errno.ENODEV, $"Device {d.Name} was removed meanwhile.");
                await w();
                return true;
            },
            cancellationToken: cancellationToken);
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
    public DeviceLink AddLink(Device consumer, Device supplier, DeviceLinkFlags flags = DeviceLinkFlags.None) =>
        LinkTable.Add(consumer, supplier, flags);

    /// <summary>Makes a consumer depend on a supplier as <see cref="AddLink"/> does, and wakes the supplier first when the flags ask for it.</summary>
    /// <param name="consumer">The device that needs the other.</param>
    /// <param name="supplier">A device in the tree.</param>
    /// <param name="flags">How the link behaves.</param>
    /// <param name="cancellationToken">Ends the wait for the supplier.</param>
    /// <returns>The link of the two.</returns>
    /// <exception cref="VirtbusException">As <see cref="AddLink"/>, or the supplier does not wake; there is no new link then.</exception>
    public ValueTask<DeviceLink> AddLinkAsync(Device consumer, Device supplier, DeviceLinkFlags flags = DeviceLinkFlags.None, CancellationToken cancellationToken = default) =>
        LinkTable.AddAsync(consumer, supplier, flags, cancellationToken);

    /// <summary>
    /// Takes a stateless request for a link back; the link goes with the last one, unless it is managed as well. A managed link goes with its
    /// devices or, by its autoremove flag, at an unbind. Harmless for a link that is gone.
    /// </summary>
    /// <param name="link">The link.</param>
    /// <exception cref="VirtbusException">EINVAL: no stateless request is left, and the consumer is in the tree.</exception>
    public void RemoveLink(DeviceLink link) =>
        LinkTable.Remove(link);

    /// <summary>The links of the fabric.</summary>
    public IReadOnlyList<DeviceLink> Links => LinkTable.Snapshot();

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
    /// Waits until nothing goes on beside its caller: asynchronous and deferred probes, module loads, and what they start; but not for what a device asks for
    /// meanwhile (<see cref="StartNotice"/>), which may be without end. Not to be called from such work, which would wait for itself.
    /// </summary>
    /// <param name="cancellationToken">Ends the wait.</param>
    public Task SettleAsync(CancellationToken cancellationToken = default) =>
        _work.SettleAsync(cancellationToken);

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

    /// <summary>
    /// Waits for the attempt to bind a device that was added while a probe above it went on: such an add returns at once, since the caller may be what that
    /// probe waits for. Who goes by the device's driver calls this, and holds nothing that a removal of the device waits for. Inside of a transition it
    /// does not wait.
    /// </summary>
    /// <param name="device">The device; for one that is not in the tree any more there is nothing to wait for.</param>
    /// <param name="cancellationToken">Ends the wait.</param>
    public ValueTask AwaitAttemptAsync(Device device, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(device);
        return Binder.HeldBack.AwaitAsync(device, cancellationToken);
    }

    /// <summary>Starts work beside the caller; <see cref="SettleAsync"/> waits for it, its errors are logged.</summary>
    /// <param name="name">What the work is, for the log.</param>
    /// <param name="work">The work.</param>
    public void StartWork(string name, Func<Task> work) =>
        _work.Start(name, work);

    /// <summary>
    /// As <see cref="StartWork"/>, for what a device asks for, and may ask for without end, as a change of its configuration: <see cref="SettleAsync"/> waits for
    /// what was asked for before it was called, and what that starts.
    /// </summary>
    /// <param name="name">What the work is, for the log.</param>
    /// <param name="work">The work.</param>
    public void StartNotice(string name, Func<Task> work) =>
        _work.Start(name, work, isNotice: true);

    internal static string DriverFolder(Driver driver) => $"/bus/{driver.Bus.Name}/drivers";

    internal static string DriverPath(Driver driver) => $"{DriverFolder(driver)}/{driver.Name}";

    internal UeventVariables VariablesOf(Device device)
    {
        var variables = Uevents.NewVariables();
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

    internal void Emit(Device device, UeventAction action, UeventVariables variables) =>
        Uevents.Emit(action, device.Folder, device.Place, device.Subsystem ?? "", variables);

    /// <summary>Refuses what a callback asks for when it would wait for the callback: it takes along what depends on the device.</summary>
    internal void ThrowIfCallerDependsOn(Device device)
    {
        for (var frame = Transitions.Ambient; frame is not null; frame = frame.Outer)
        {
            if (frame.Device is { } held && LinkTable.DependsOn(held, device))
            {
                throw new VirtbusException(
                    Errno.EDEADLK,
                    $"Device {device.Name} can't be unbound or deleted from a callback of {held.Name}, which goes with it. Do it after the callback has returned.");
            }
        }
    }

    internal UeventVariables VariablesOrLog(Device device)
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
}
