using System.Text;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Core.Simulation;

/// <summary>
/// A fabric on one thread under a seed: several activities add, delete, bind, link, suspend and remove at random, and drivers fail, defer,
/// create children and call back into the fabric from their callbacks. What the callbacks see is compared with a small model; what the core
/// keeps is checked after each operation; at the end everything is taken down and nothing may be left.
/// </summary>
internal sealed class Simulation : SeededProgram
{
    private const int Kinds = 5;
    private readonly SimBus[] _buses;
    private readonly Class _class = new("sim");
    private readonly IdAllocator _ids = new();
    private readonly List<SimDevice> _all = [];
    private readonly List<SimDevice> _alive = [];
    private readonly List<SimDriver> _drivers = [];
    private readonly List<SimObserver> _observers = [];
    private readonly List<SimObserver> _observing = [];
    private readonly HashSet<uint> _idsOut = [];
    private readonly HashSet<string> _modules = [];
    private readonly Dictionary<DeviceLink, (long At, bool Strict)> _linkFacts = [];
    private readonly int[] _bound = new int[Kinds + 1];
    private readonly Action<Simulation>? _sabotage;
    private long _powerStarted;
    private bool _powerGoesOn;
    private int _made;
    private int _depth;

    public Simulation(ulong seed, Action<Simulation>? sabotage = null, bool trace = false)
        : base(seed, trace, TimeProvider.System)
    {
        _sabotage = sabotage;
        _buses = [Fabric.RegisterBus(new SimBus(this, "one", keyed: true)), Fabric.RegisterBus(new SimBus(this, "two", keyed: false))];
        Fabric.RegisterClass(_class);
        Fabric.Life.AddModaliasListener(OnModalias);
    }

    public IReadOnlyList<SimDevice> Alive => _alive;

    protected override string DescribeWaits()
    {
        var text = new StringBuilder(base.DescribeWaits());
        foreach (var device in _all.Where(d => d.PowerState is { IsInTurn: true }))
            text.Append("\n").Append(device).Append(" is in a runtime transition");
        return text.ToString();
    }

    protected override async Task ProgramAsync()
    {
        var actors = new Task[2 + Scheduler.Next(3)];
        for (var i = 0; i < actors.Length; i++)
            actors[i] = Scheduler.Start(ActAsync);
        await Task.WhenAll(actors);
        await Fabric.SettleAsync();
        await ProveNothingWaitsInVainAsync();
        await TakeDownAsync();
    }

    private async Task ActAsync()
    {
        for (var n = 6 + Scheduler.Next(12); n > 0 && !HasFailed; n--)
        {
            await OperateAsync();
            _sabotage?.Invoke(this);
            CheckCore();
            await PauseAsync();
        }
    }

    // One operation; refusals are allowed, anything else is not.
    private async ValueTask OperateAsync()
    {
        try
        {
            switch (Scheduler.Next(22))
            {
                case 0 or 1 or 2 or 3:
                    await AddDeviceAsync(Chance(4) ? null : PickDevice());
                    break;
                case 4 or 5:
                    await RegisterDriverAsync();
                    break;
                case 6 when PickDriver() is { } driver:
                    Note("unregister driver", driver.Name);
                    await Fabric.UnregisterDriverAsync(driver);
                    driver.MayProbe = false;
                    _drivers.Remove(driver);
                    break;
                case 7 when PickDevice() is { } device:
                    Note("delete", device.Name);
                    await Fabric.DeleteAsync(device);
                    DropCreator(device);
                    break;
                case 8 when PickDevice() is { } device:
                    Note("surprise", device.Name);
                    await Fabric.SurpriseRemoveAsync(device);
                    break;
                case 9 or 10 when PickDriver() is { } driver && PickDevice() is { } device:
                    Note("unbind", device.Name, driver.Name);
                    await Fabric.UnbindAsync(device.Binding.Driver ?? driver, device.Name);
                    break;
                case 11 when PickDriver() is { } driver && PickDevice() is { } device:
                    Note("bind", device.Name, driver.Name);
                    await Fabric.BindAsync(driver, device.Name);
                    break;
                case 12 when PickDevice() is { Bus: { } bus } device:
                    Note("probe", device.Name);
                    await Fabric.ProbeAsync(bus, device.Name);
                    break;
                case 13 when PickDevice() is { Bus: not null } device:
                    Note("override", device.Name);
                    device.EverOverridden = true;
                    Fabric.SetDriverOverride(device, Chance(2) ? null : PickDriver()?.Name);
                    break;
                case 14 or 15 when PickDevice() is { } consumer && PickDevice() is { } supplier:
                    Link(consumer, supplier);
                    break;
                case 16 when Fabric.Links is { Count: > 0 } links:
                    Fabric.RemoveLink(links[Scheduler.Next(links.Count)]);
                    break;
                case 17:
                    await PowerAsync(Fabric.SuspendAsync, "suspend");
                    break;
                case 18:
                    await PowerAsync(Fabric.ResumeAsync, "resume");
                    break;
                case 19 when PickDevice() is { } device:
                    await UseAsync(device);
                    break;
                case 20 when PickDevice() is { } device:
                    await HoldAsync(device);
                    break;
                case 21:
                    await ObserveAsync();
                    break;
                default:
                    break;
            }
        }
        catch (VirtbusException e)
        {
            Note("refused", e.Errno.ToString());
            Require(e.Errno != Errno.EPROBE_DEFER, "EPROBE_DEFER reached a user");
        }
    }

    private async ValueTask AddDeviceAsync(SimDevice? parent)
    {
        var id = _ids.Allocate();
        Require(_idsOut.Add(id), $"id {id} is handed out while it is referenced");
        var isClass = Chance(6);
        var device = new SimDevice($"d{++_made}", id, 1 + Scheduler.Next(Kinds), parent, isClass ? null : _buses[Scheduler.Next(2)], isClass ? _class : null)
        {
            Release = Release,
        };
        _all.Add(device);
        Note("add", device.Name, parent?.Name);
        device.AddedAt = Scheduler.Steps;
        _alive.Add(device);
        try
        {
            await Fabric.AddAsync(device);
        }
        catch (VirtbusException)
        {
            Require(device.Sequence == 0, $"the add of {device} failed after it was added");
            DropCreator(device);
            throw;
        }
    }

    private void Release(Device released)
    {
        var device = (SimDevice)released;
        Note("release", device.Name);
        device.Releases++;
        Require(device.Releases == 1, $"{device} is released {device.Releases} times");
        Require(device is { CreatorHolds: false, Held: 0 }, $"{device} is released while it is held");
        Require(device.Sequence == 0 || device.IsOut, $"{device} is released while it is in the tree");
        _alive.Remove(device);
        _idsOut.Remove(device.Id);
        _ids.Free(device.Id);
    }

    private void DropCreator(SimDevice device)
    {
        _alive.Remove(device);
        if (!device.CreatorHolds)
            return;
        device.CreatorHolds = false;
        device.Put();
    }

    private async ValueTask RegisterDriverAsync()
    {
        var kinds = Enumerable.Range(1, 1 + Scheduler.Next(3)).Select(_ => 1 + Scheduler.Next(Kinds)).Distinct().ToArray();
        var driver = new SimDriver(this, _buses[Scheduler.Next(2)], $"v{++_made}", kinds)
        {
            ProbeType = (ProbeType)Scheduler.Next(3),
            IsReliable = Chance(2),
            Needs = Chance(3) ? 1 + Scheduler.Next(Kinds) : 0,
            MakesChildren = Chance(4),
            MayProbe = true,
        };
        Note("register driver", driver.Name, string.Join(',', kinds));
        _drivers.Add(driver);
        await Fabric.RegisterDriverAsync(driver);
    }

    // As the loader does: a device whose alias a module declares gets it loaded beside the add, once at a time.
    private void OnModalias(string modalias)
    {
        if (IsEnding || !_modules.Add(modalias))
            return;
        Fabric.StartWork("load of " + modalias, async () =>
        {
            Note("load", modalias);
            await PauseAsync();
            var driver = new SimDriver(this, _buses[modalias[0] == 'o' ? 0 : 1], $"m{++_made}", [modalias[^1] - '0']) { IsReliable = Chance(2), MayProbe = true };
            _drivers.Add(driver);
            await Fabric.RegisterDriverAsync(driver);
            await PauseAsync();
            if (Chance(3))
            {
                Note("unload", modalias);
                await Fabric.UnregisterDriverAsync(driver);
                driver.MayProbe = false;
                _drivers.Remove(driver);
            }
            _modules.Remove(modalias);
        });
    }

    private void Link(SimDevice consumer, SimDevice supplier)
    {
        var flags = Scheduler.Next(5) switch
        {
            0 => DeviceLinkFlags.Stateless,
            1 => DeviceLinkFlags.AutoremoveConsumer,
            2 => DeviceLinkFlags.AutoremoveSupplier,
            3 => DeviceLinkFlags.AutoprobeConsumer | DeviceLinkFlags.PmRuntime,
            _ => DeviceLinkFlags.None,
        };
        var strict = consumer.Binding.State == BindingState.Unbound;
        var wasManaged = Fabric.Links.Any(l => l.Consumer == consumer && l.Supplier == supplier && l.IsManaged);
        var link = Fabric.AddLink(consumer, supplier, flags);
        Note("link", consumer.Name, supplier.Name);
        // A link counts as of the request that made it managed.
        if (link.IsManaged && !wasManaged)
            _linkFacts[link] = (Scheduler.Steps, strict);
        else
            _linkFacts.TryAdd(link, (Scheduler.Steps, strict));
    }

    private async ValueTask PowerAsync(Func<Device?, ValueTask> transition, string what)
    {
        var device = Chance(2) ? null : PickDevice();
        if (device is { State: not DeviceState.Added })
            return;
        Note(what, device?.Name);
        // One goes on at a time; the others are refused and change nothing.
        if (_powerGoesOn)
        {
            await transition(device);
            return;
        }
        (_powerGoesOn, _powerStarted) = (true, Scheduler.Steps);
        try
        {
            await transition(device);
        }
        finally
        {
            _powerGoesOn = false;
        }
    }

    private async ValueTask UseAsync(SimDevice device)
    {
        if (device.Fabric is null)
            return;
        if (device.Uses > 0 && Chance(2))
        {
            device.Uses--;
            await device.Power.RuntimePutAsync();
            return;
        }
        await device.Power.RuntimeGetAsync();
        device.Uses++;
    }

    private async ValueTask HoldAsync(SimDevice device)
    {
        if (device.Releases > 0)
            return;
        device.Held++;
        var reference = device.Hold();
        await PauseAsync();
        await PauseAsync();
        Require(device.Releases == 0, $"{device} is released while it is referenced");
        device.Held--;
        reference.Dispose();
    }

    private async ValueTask ObserveAsync()
    {
        if (_observing.Count > 0 && Chance(2))
        {
            var leaving = _observing[Scheduler.Next(_observing.Count)];
            _observing.Remove(leaving);
            await Fabric.RemoveClassObserverAsync(_class, leaving);
            return;
        }
        var observer = new SimObserver(this);
        _observers.Add(observer);
        await Fabric.AddClassObserverAsync(_class, observer);
        _observing.Add(observer);
    }

    private SimDevice? PickDevice() => _alive.Count == 0 ? null : _alive[Scheduler.Next(_alive.Count)];

    private SimDriver? PickDriver() => _drivers.Count == 0 ? null : _drivers[Scheduler.Next(_drivers.Count)];

    // Callbacks.
    public async ValueTask ProbeAsync(SimDriver driver, SimDevice device, SimId id, CancellationToken token)
    {
        Enter(device, "probe");
        Note("probe", device.Name, driver.Name);
        Require(device.Model == Bound.No, $"{device} is probed by {driver} while {device.Model} with {device.By}");
        Require(driver.MayProbe, $"{driver} probes {device} but is not registered");
        Require(driver.Kinds.Contains(device.Kind) || device.EverOverridden, $"{driver} probes {device}, which it does not serve");
        Require(id.Kind == device.Kind, $"{device} is probed with another one's entry");
        Require(!device.IsOut, $"{device} is probed but not in the tree");
        Require(device.Configured == 1 && device.Powered == 1 - (device.Kind % 2), $"{device} is probed without configuration or power");
        Require(device.Resources.Count == 0, $"{device} is probed with resources left");
        foreach (var link in device.Links?.Suppliers ?? [])
        {
            if (link is { IsManaged: true, Supplier: SimDevice { Bus: not null } supplier } && IsStrict(link))
                Require(supplier.Model == Bound.Yes, $"{device} is probed before its supplier {supplier}");
        }
        device.Model = Bound.Probing;
        device.By = driver;
        var ok = false;
        try
        {
            for (var n = Scheduler.Next(3); n > 0; n--)
            {
                Acquire(device);
                await PauseAsync();
                token.ThrowIfCancellationRequested();
            }
            if (driver.MakesChildren && Chance(2))
                await RefusableAsync(() => AddDeviceAsync(device));
            if (!driver.IsReliable && Chance(5))
                await RefusableAsync(OperateAsync);
            if (Chance(30))
                await RefusableAsync(() => DeleteSelfAsync(device));
            if (driver.Needs > 0 && _bound[driver.Needs] == 0)
                throw new ProbeDeferException($"no device of kind {driver.Needs}");
            if (!driver.IsReliable && Chance(4))
                throw Scheduler.Next(4) switch
                {
                    0 => new VirtbusException(Errno.ENODEV, "not mine"),
                    1 => new ProbeDeferException("not yet"),
                    2 => new InvalidOperationException("bug"),
                    _ => new VirtbusException(Errno.EIO, "no answer"),
                };
            if (Chance(3))
                device.Power.EnableRuntime(Chance(2));
            ok = true;
        }
        finally
        {
            Leave(device, "probe");
            device.Model = ok ? Bound.Yes : Bound.No;
            if (ok)
                _bound[device.Kind]++;
            else
                device.By = null;
        }
    }

    public async ValueTask RemoveAsync(SimDriver driver, SimDevice device)
    {
        Enter(device, "remove");
        Note("remove", device.Name, driver.Name);
        Require(device.Model == Bound.Yes && device.By == driver, $"{driver} removes {device}, which is {device.Model} with {device.By}");
        Require(!device.IsOut, $"{device} is removed but not in the tree");
        foreach (var link in device.Links?.Consumers ?? [])
        {
            if (link is { IsManaged: true, Consumer: SimDevice consumer } && IsStrict(link))
                Require(consumer.Model == Bound.No, $"{device} is unbound before its consumer {consumer}");
        }
        device.Model = Bound.Removing;
        device.EverRemoved = true;
        _bound[device.Kind]--;
        try
        {
            await PauseAsync();
            if (Chance(8))
                await RefusableAsync(OperateAsync);
            if (Chance(30))
                await RefusableAsync(() => DeleteSelfAsync(device));
            if (Chance(20))
                throw new InvalidOperationException("bug");
        }
        finally
        {
            Leave(device, "remove");
            device.Model = Bound.No;
            device.By = null;
            device.Sleep = 0;
        }
    }

    public async ValueTask SleepAsync(SimDriver driver, SimDevice device, int from, int to)
    {
        Enter(device, to > from ? "suspend" : "resume");
        Note(to > from ? "suspend" : "resume", device.Name, to.ToString());
        Require(device.Model == Bound.Yes && device.By == driver, $"{device} gets a power callback while {device.Model}");
        Require(device.Sleep == from, $"{device} goes to sleep state {to} from {device.Sleep}");
        if (to > from && to > 1)
        {
            foreach (var below in device.Children.OfType<SimDevice>())
                Require(below is not { Model: Bound.Yes, State: DeviceState.Added } || below.Sleep >= to, $"{device} sleeps before {below} below it");
            foreach (var link in device.Links?.Consumers ?? [])
            {
                if (link.Consumer is SimDevice { Model: Bound.Yes, State: DeviceState.Added } consumer && IsOld(link))
                    Require(consumer.Sleep >= to, $"{device} sleeps before its consumer {consumer}");
            }
        }
        else if (to > 0)
        {
            if (to < from && device.Parent is SimDevice { Model: Bound.Yes } above)
                Require(above.Sleep <= to, $"{device} goes to {to} while {above} above it is at {above.Sleep}");
            foreach (var link in device.Links?.Suppliers ?? [])
            {
                if (to < from && link.Supplier is SimDevice { Model: Bound.Yes } supplier && IsOld(link))
                    Require(supplier.Sleep <= to, $"{device} wakes before its supplier {supplier}");
            }
        }
        await PauseAsync();
        Leave(device, to > from ? "suspend" : "resume");
        if (to > from && Chance(25))
            throw new VirtbusException(Errno.EBUSY, "not now");
        device.Sleep = to;
        if (to < from && Chance(25))
            throw new InvalidOperationException("does not wake");
    }

    public async ValueTask RuntimeAsync(SimDevice device)
    {
        Require(!device.RuntimeRunning, $"two runtime callbacks of {device} at a time");
        Require(device.Model is not (Bound.No or Bound.Removing), $"{device} gets a runtime callback while {device.Model}");
        device.RuntimeRunning = true;
        await PauseAsync();
        device.RuntimeRunning = false;
        if (Chance(10))
            throw new VirtbusException(Chance(2) ? Errno.EBUSY : Errno.EIO, "runtime");
    }

    private void Enter(SimDevice device, string callback)
    {
        Require(device.Running is null, $"{callback} of {device} runs beside its {device.Running}");
        Require(device.Releases == 0, $"{callback} of {device} runs after its release");
        device.Running = callback;
    }

    private void Leave(SimDevice device, string callback)
    {
        Require(device.Running == callback, $"{callback} of {device} ends while {device.Running} runs");
        device.Running = null;
        Note("end of", callback, device.Name);
    }

    private void Acquire(SimDevice device)
    {
        var number = device.Kept.Count;
        device.Kept.Push(number);
        device.Resources.AddAction(() =>
        {
            Require(device.Kept.TryPop(out var last) && last == number, $"resources of {device} are released out of order");
            Require(device.Running is null, $"resources of {device} are released while its {device.Running} runs");
            return Chance(10) ? throw new InvalidOperationException("release") : default;
        });
    }

    private async ValueTask DeleteSelfAsync(SimDevice device)
    {
        try
        {
            await Fabric.DeleteAsync(device);
        }
        catch (VirtbusException e) when (e.Errno == Errno.EDEADLK)
        {
            return;
        }
        Require(false, $"{device} was deleted by its own callback");
    }

    // From a callback: bounded nesting, refusals allowed.
    private async ValueTask RefusableAsync(Func<ValueTask> operation)
    {
        if (_depth > 3)
            return;
        _depth++;
        try
        {
            await operation();
        }
        catch (VirtbusException)
        {
            Note("refused in a callback");
        }
        finally
        {
            _depth--;
        }
    }

    private bool IsStrict(DeviceLink link) => _linkFacts.TryGetValue(link, out var facts) && facts.Strict;

    private bool IsOld(DeviceLink link) => _linkFacts.TryGetValue(link, out var facts) && facts.At < _powerStarted;

    // What the core keeps, seen between two steps.
    private void CheckCore()
    {
        var seen = 0;
        foreach (var device in Fabric.AllDevices.Cast<SimDevice>())
        {
            seen++;
            Require(device.References >= 1 && device.Releases == 0, $"{device} is in the tree without a reference");
            if (device.Bus is not SimBus bus)
                continue;
            var binding = device.Binding;
            Require(bus.TryGetDevice(device.Name, out var found) && found == device, $"{device} is in the tree but not on its bus");
            Require((binding.State == BindingState.Unbound) == (binding.Driver is null), $"{device} is {binding.State} with {binding.Driver}");
            Require(
                device.List == (binding.Driver is { } driver ? driver.Bound : bus.Unbound) || device is { List: null, State: DeviceState.Deleted, Binding.State: BindingState.Unbound },
                $"{device} is {binding.State} and {device.State}, and on the wrong list");
            Require(bus.Busy.Contains(device) == binding.State is BindingState.Probing or BindingState.Unbinding, $"{device} is {binding.State} and busy is wrong");
            if (binding.State == BindingState.Bound)
                Require(device.Model == Bound.Yes && device.By == binding.Driver, $"{device} is bound to {binding.Driver}, but the callbacks say {device.Model} {device.By}");
            if (binding.State == BindingState.Unbound)
                Require(device is { Model: Bound.No, Configured: 0, Powered: 0, Kept.Count: 0 }, $"{device} is unbound and not balanced");
            if (device.IsDeferred)
                Require(device.DeferredReason is not null && binding.State != BindingState.Bound, $"{device} is deferred and {binding.State}");
        }
        Require(seen <= _idsOut.Count, "more devices than ids");
        CheckEvents();
    }

    // Nothing goes on. A device that was never unbound and that a willing driver serves is bound by now; one that waits has a reason that is true.
    private async ValueTask ProveNothingWaitsInVainAsync()
    {
        IsEnding = true;
        for (var i = 0; i < 3; i++)
            await Fabric.ResumeAsync();
        await Fabric.SettleAsync();
        CheckCore();
        Require(Fabric.Transitions.Waiting == 0, "a transition is waited for, but nothing goes on");
        Require(Fabric.Binder.ParkedCount == 0, "a probe is parked, but everything is awake");
        foreach (var device in Fabric.AllDevices.Cast<SimDevice>())
        {
            Require(device.Sleep <= 0 || device.Model != Bound.Yes, $"{device} sleeps after everything was resumed");
            Require(device.Holder is null && device.Waiters is null, $"{device} is in a transition, but nothing goes on");
            if (device is not { EverRemoved: false, EverOverridden: false, IsGone: false, Binding.State: BindingState.Unbound, Bus: { } bus })
                continue;
            if (device.Links?.Suppliers.Any(l => l is { IsManaged: true, Supplier: { Bus: not null, Driver: null } }) == true)
                continue;
            foreach (var driver in bus.Drivers.Cast<SimDriver>())
            {
                if (driver.IsReliable && driver.Kinds.Contains(device.Kind) && (driver.Needs == 0 || _bound[driver.Needs] > 0))
                    Require(_flaky.Contains(device), $"{device} has no driver, and {driver} would take it ({device.DeferredReason ?? "not deferred"})");
            }
        }
    }

    private readonly HashSet<SimDevice> _flaky = [];

    /// <summary>The first that the bus hears of a probe.</summary>
    public void Configure(Device device)
    {
        for (var above = device.Parent; above is not null; above = above.Parent)
        {
            Require(above.Binding.State != BindingState.Probing, $"{device} is probed while {above} above it is");
            // Later phases wait for the probe: it began before the device above was prepared.
            Require(above.PowerState is not { Phase: > SleepPhase.Prepared }, $"{device} is probed while {above} above it sleeps");
        }
    }

    /// <summary>The bus refused the device once, so that no driver need have it.</summary>
    public void RefusedByBus(SimDevice device) => _flaky.Add(device);

    private async ValueTask TakeDownAsync()
    {
        foreach (var device in Fabric.RootDevices.Reverse())
            await Fabric.DeleteAsync(device);
        foreach (var driver in _buses.SelectMany(b => b.Drivers).ToArray())
            await Fabric.UnregisterDriverAsync(driver);
        foreach (var observer in _observing)
            await Fabric.RemoveClassObserverAsync(_class, observer);
        await Fabric.SettleAsync();
        foreach (var device in _all)
            DropCreator(device);
        CheckEvents();
        Require(!Fabric.AllDevices.Any(), "devices are left in the tree");
        Require(Fabric.DeferredDevices.Count == 0, "devices are left deferred");
        Require(Fabric.Links.Count == 0, "links are left");
        Require(Fabric.Transitions.Waiting == 0, "transitions are waited for");
        Require(Fabric.WorkCount == 0, "work is left");
        Require(Fabric.Binder.ParkedCount == 0, "probes are left parked");
        Require(_ids.Count == 0 && _idsOut.Count == 0, "ids are left");
        Require(_observers.All(o => o.Known == 0), "an observer was not told of a removal");
        foreach (var bus in _buses)
        {
            Require(bus is { DeviceCount: 0, Unbound.Count: 0, Busy.Count: 0, Drivers.Count: 0 }, $"bus {bus} is not empty");
            Fabric.UnregisterBus(bus);
        }
        foreach (var device in _all)
        {
            Require(device.Releases == 1, $"{device} was released {device.Releases} times");
            Require(device is { Model: Bound.No, Configured: 0, Powered: 0, Kept.Count: 0, Running: null, Resources.Count: 0 }, $"{device} is not balanced at the end");
            Require(device.Sequence == 0 || LastEvent(device.DevPath) == "remove", $"the last event of {device} is not remove");
        }
    }
}
