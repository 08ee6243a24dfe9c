using System.Text;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Pci;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Tests.Buses.Simulation;

/// <summary>
/// A fabric with the PCI bus and VFIO on one thread under a seed: operators plug, pull, remove, rescan, bind, override and cut virtual functions,
/// drivers of the host and of users probe and let go, users open, map, attach, and close late or when the device is taken away, and functions
/// try DMA all the time. What the callbacks see is compared with a small model after each step; at the end nothing may be left.
/// </summary>
internal sealed partial class PciSimulation : SeededProgram
{
    private const int MaxCards = 4;
    private const ulong MemorySize = 16 * Page;
    private const ulong Page = 4096;
    private const long MaxSteps = 200_000;

    private static readonly SimPciKind[] Kinds =
    [
        new("host-pf", IsUser: false, Fails: false, SimLayouts.Physical),
        new("host-vf", IsUser: false, Fails: false, SimLayouts.Virtual, SimLayouts.Plain),
        new("vfio-any", IsUser: true, Fails: false),
        new("vfio-vf", IsUser: true, Fails: false, SimLayouts.Virtual),
        new("faulty", IsUser: false, Fails: true, SimLayouts.Physical, SimLayouts.Virtual, SimLayouts.Plain),
        new("vfio-faulty", IsUser: true, Fails: true, SimLayouts.Plain),
    ];

    private readonly Action<PciSimulation>? _sabotage;
    private readonly VfioSubsystem _vfio;
    private readonly SimTransport _transport;
    private readonly HostMemory _memory;
    private readonly List<SimCard> _cards = [];
    private readonly List<SimPciDriver> _drivers = [];
    private readonly List<VfioDevice> _registered = [];
    private readonly SimUser[] _users = [new("u0"), new("u1"), new("u2")];
    private readonly List<Task> _beside = [];
    private int _made;
    private int _depth;
    private bool _mayUse = true;
    private bool _isOver;

    public PciSimulation(ulong seed, Action<PciSimulation>? sabotage = null, bool trace = false)
        : this(seed, sabotage, trace, new ManualTime())
    {
    }

    private PciSimulation(ulong seed, Action<PciSimulation>? sabotage, bool trace, ManualTime time)
        : base(seed, trace, time)
    {
        _sabotage = sabotage;
        Time = time;
        Bus = Fabric.RegisterBus(new PciBus());
        _vfio = VfioSubsystem.Of(Fabric);
        _transport = new SimTransport(this);
        _memory = HostMemory.Allocate("virtbus-sim", MemorySize, out var file);
        file.Dispose();
    }

    public ManualTime Time { get; }

    public PciBus Bus { get; }

    public long Step => Scheduler.Steps;

    public IReadOnlyList<SimUser> Users => _users;

    /// <summary>What users map.</summary>
    public HostMemory Memory => _memory;

    public int VirtualFunctionsAlive { get; set; }

    /// <summary>Buffers of drivers that let go of their device and forgot to free them.</summary>
    public List<SimBuffer> Forgotten { get; } = [];

    protected override string DescribeWaits()
    {
        var text = new StringBuilder(base.DescribeWaits());
        foreach (var node in _nodes.Where(n => n.Vfio is { IsOpen: true }))
            text.Append("\n").Append(node).Append(" is open").Append(node.Vfio!.IsLeaving ? " and leaving" : "");
        return text.Append("\n").Append(Time.Timers).Append(" timers").ToString();
    }

    protected override async Task ProgramAsync()
    {
        var clock = Scheduler.Start(TickAsync);
        await Fabric.AddClassObserverAsync(_vfio.Class, _transport);
        foreach (var kind in Kinds)
        {
            if (Next(4) > 0)
                await RegisterDriverAsync(kind);
        }
        for (var n = Next(3); n > 0; n--)
            await PlugAsync();
        var operators = new Task[1 + Next(2)];
        for (var i = 0; i < operators.Length; i++)
            operators[i] = Scheduler.Start(OperateAsync);
        var users = new Task[1 + Next(2)];
        for (var i = 0; i < users.Length; i++)
            users[i] = Scheduler.Start(UseAsync);
        await Task.WhenAll(operators);
        _mayUse = false;
        await Task.WhenAll(users);
        IsEnding = true;
        await TakeDownAsync();
        _isOver = true;
        await clock;
        CheckNothingLeft();
    }

    // Requests repeat by the clock, so it goes on as long as anything does; what nothing ends is found here.
    private async Task TickAsync()
    {
        while (!_isOver)
        {
            if (Next(4) == 0)
            {
                Time.Advance(TimeSpan.FromMilliseconds(Next(4000)));
                CheckRequests();
            }
            if (Step > MaxSteps)
            {
                Require(false, "something goes on for ever" + DescribeWaits());
                return;
            }
            await Task.Yield();
        }
    }

    private async Task OperateAsync()
    {
        for (var n = 12 + Next(12); n > 0 && !HasFailed; n--)
        {
            await RefusableAsync(OperateOnceAsync);
            await AfterStepAsync();
        }
    }

    private async Task UseAsync()
    {
        while (_mayUse && !HasFailed)
        {
            Use(_users[Next(_users.Length)]);
            await AfterStepAsync();
            await PauseAsync();
        }
    }

    private async ValueTask AfterStepAsync()
    {
        _sabotage?.Invoke(this);
        // Mostly what is there; what is gone must not do anything either.
        for (var n = Next(4); n > 0 && (Next(4) > 0 ? PickNode() : _nodes.Count > 0 ? _nodes[Next(_nodes.Count)] : null) is { } node; n--)
            Poke(node);
        Check();
        await PauseAsync();
    }

    // Refusals are allowed, anything else is not.
    private async ValueTask RefusableAsync(Func<ValueTask> operation)
    {
        try
        {
            await operation();
        }
        catch (VirtbusException e)
        {
            Note("refused", e.Errno.ToString());
            Require(e.Errno != Errno.EPROBE_DEFER, "EPROBE_DEFER reached a user");
        }
    }

    // Operators.
    private async ValueTask OperateOnceAsync()
    {
        switch (Next(32))
        {
            case 0 or 1 or 2:
                await PlugAsync();
                break;
            case 3 when Next(2) == 0 && PickCard() is { } node:
                Note("unplug", node.Device.Name);
                await Bus.UnplugAsync(node.Device);
                break;
            case 3 when Slots().Where(s => s.Function is SimCard).ToArray() is { Length: > 0 } slots:
                var slot = slots[Next(slots.Length)];
                Note("unplug", slot.Function.ToString());
                await Bus.UnplugAsync(slot.Function);
                Require(slot.IsEmpty, $"{slot.Function} was unplugged and is in its slot");
                break;
            case 4 when PickNode() is { } node:
                Note("remove", node.Device.Name);
                node.IsTakenOut = true;
                await Bus.RemoveAsync(node.Device);
                break;
            case 5 or 6:
                Note("rescan");
                await Bus.RescanAsync();
                break;
            case 7 when PickNode() is { } node:
                await SurpriseAsync(node);
                break;
            case 8 when _cards.Where(c => !c.IsPulled && IsInSlot(c)).ToArray() is { Length: > 0 } there:
                var card = there[Next(there.Length)];
                Note("pull", card.Name);
                card.Pull();
                break;
            case 9 or 10 or 11 or 12 or 13 when PickPhysical() is { } node:
                await WriteNumberAsync(node);
                break;
            case 14 or 15 or 16 when PickNode() is { } node && PickDriver() is { } driver:
                Note("bind", node.Device.Name, driver.Name);
                await Fabric.BindAsync(driver, node.Device.Name);
                break;
            case 17 when PickNode() is { Device.Binding.Driver: { } driver } node:
                Note("unbind", node.Device.Name, driver.Name);
                await Fabric.UnbindAsync(driver, node.Device.Name);
                break;
            case 18 or 19 or 20 or 21 or 22 when PickNode() is { } node:
                await HandOverAsync(node, Kinds[Next(2) == 0 ? 2 : Next(Kinds.Length)].Name);
                break;
            case 23 when PickNode() is { } node:
                Note("reset", node.Device.Name);
                await Fabric.Tree.WriteAsync(node.Device.DevPath + "/reset", "1");
                break;
            case 24 or 25:
                await RegisterDriverAsync(Kinds[Next(Kinds.Length)]);
                break;
            case 26 when PickDriver() is { } driver:
                Note("unregister driver", driver.Name);
                await Fabric.UnregisterDriverAsync(driver);
                driver.MayProbe = false;
                _drivers.Remove(driver);
                break;
            case 27 or 28 when PickNode() is { } node:
                await SquatAsync(node);
                break;
            case 29 when Next(2) == 0 && Bus.Devices.Cast<PciDevice>().Where(d => d.IsBridge).ToArray() is { Length: > 0 } bridges:
                await DisturbBridgeAsync(bridges[Next(bridges.Length)]);
                break;
            case 30 when PickPhysical() is { } node:
                Note("autoprobe", node.Device.Name);
                await Fabric.Tree.WriteAsync(node.Device.DevPath + "/sriov_drivers_autoprobe", Next(3) == 0 ? "0" : "1");
                break;
            case 31 when Forgotten.Count > 0:
                FreeForgotten();
                break;
            default:
                break;
        }
    }

    private async ValueTask PlugAsync()
    {
        var free = _cards.Where(c => c is { IsOnItsWay: false, IsPlugged: false, IsPulled: false } && !IsInSlot(c)).ToArray();
        var card = free.Length > 0 && Next(2) == 0 ? free[Next(free.Length)] : MakeCard();
        if (card is null)
            return;
        card.IsOnItsWay = true;
        Note("plug", card.Name);
        try
        {
            var device = await Bus.PlugAsync(card);
            Note("plugged", card.Name, device.Name);
        }
        finally
        {
            card.IsOnItsWay = false;
        }
    }

    private SimCard? MakeCard()
    {
        if (_cards.Count(c => !c.IsPulled) >= MaxCards)
            return null;
        var shape = Next(2);
        var card = Next(3) == 0
            ? new SimCard(this, $"c{++_made}", SimLayouts.PlainFunctions[shape], null)
            : new SimCard(this, $"c{++_made}", SimLayouts.PhysicalFunctions[shape], SimLayouts.VirtualFunctions[shape]);
        _cards.Add(card);
        return card;
    }

    private bool IsInSlot(SimCard card) => Slots().Any(s => s.Function == card);

    private IEnumerable<PciSlot> Slots()
    {
        return Bus.HostBridges.SelectMany(h => Of(h.Root));

        static IEnumerable<PciSlot> Of(PciSegment? segment) => segment is null ? [] : segment.Slots.Values.SelectMany(s => Of(s.Secondary).Prepend(s));
    }

    private async ValueTask SurpriseAsync(SimNode node)
    {
        Note("surprise", node.Device.Name);
        node.IsTakenOut = true;
        var isFree = Transitions.Ambient is null;
        var removal = Bus.SurpriseRemoveAsync(node.Device);
        // Nobody has a chance to run in between: what was open is closed before the call returns.
        foreach (var one in node.Device.VirtualFunctions.Append(node.Device).Select(NodeOf))
        {
            Require(one.Vfio is not { IsOpen: true }, $"{one} was pulled out and is still open");
            Require(one.Vfio is not { Opens: > 0 } vfio || vfio.Opens == vfio.Closes, $"{one} was opened and closed a different number of times");
        }
        await removal;
        // From a callback it may have to follow.
        Require(node.Device.IsOut || !isFree, $"{node} was pulled out and is in the tree");
    }

    private async ValueTask WriteNumberAsync(SimNode node)
    {
        var count = Next(SimLayouts.TotalVfs + 3);
        if (count == SimLayouts.TotalVfs + 2)
            count = 0;
        Note("numvfs", node.Device.Name, $"{count}");
        try
        {
            await Fabric.Tree.WriteAsync(node.Device.DevPath + "/sriov_numvfs", $"{count}");
            Require(count <= SimLayouts.TotalVfs, $"{node} took {count} virtual functions");
        }
        catch (VirtbusException e) when (e.Errno == Errno.ERANGE)
        {
            Require(count > SimLayouts.TotalVfs, $"{node} refused {count} virtual functions with ERANGE");
        }
    }

    // As driverctl does it.
    private async ValueTask HandOverAsync(SimNode node, string driver)
    {
        Note("override", node.Device.Name, driver);
        Fabric.SetDriverOverride(node.Device, Next(6) == 0 ? null : driver);
        await PauseAsync();
        if (node.Device.Binding.Driver is { } old)
            await RefusableAsync(() => Fabric.UnbindAsync(old, node.Device.Name));
        await PauseAsync();
        await Fabric.ProbeAsync(Bus, node.Device.Name);
    }

    private async ValueTask RegisterDriverAsync(SimPciKind kind)
    {
        if (_drivers.Exists(d => d.Kind == kind))
            return;
        var driver = new SimPciDriver(this, kind) { ProbeType = (ProbeType)Next(3) };
        Note("register driver", kind.Name);
        _drivers.Add(driver);
        try
        {
            await Fabric.RegisterDriverAsync(driver);
        }
        catch (VirtbusException)
        {
            _drivers.Remove(driver);
            throw;
        }
    }

    private async ValueTask DisturbBridgeAsync(PciDevice bridge)
    {
        Note("bridge", bridge.Name);
        foreach (var node in _nodes)
            node.IsTakenOut |= node.IsInTree && (node.Device.Parent == bridge);
        switch (Next(3))
        {
            case 0:
                await Bus.RemoveAsync(bridge);
                break;
            case 1:
                await Bus.SurpriseRemoveAsync(bridge);
                break;
            default:
                await Fabric.Tree.WriteAsync(bridge.DevPath + "/reset", "1");
                break;
        }
    }

    // Takes the DMA for a while; drivers of the host and users of VFIO find it taken.
    private async ValueTask SquatAsync(SimNode node)
    {
        var squatter = new SimSquatter($"squatter{++_made}");
        Note("squat", node.Device.Name);
        if (!TryClaim(node, squatter, out _))
            return;
        var space = SpaceOf(_users[Next(_users.Length)]);
        Attach(node, squatter, space, Next(3) == 0 ? 5u : 0);
        for (var n = Next(6); n > 0; n--)
        {
            Poke(node);
            await PauseAsync();
        }
        Release(node, squatter);
        Poke(node);
    }

    private void FreeForgotten()
    {
        var buffer = Forgotten[Next(Forgotten.Count)];
        Forgotten.Remove(buffer);
        buffer.Free();
    }

    private SimNode? PickNode() => Pick(static _ => true);

    private SimNode? PickCard() => Pick(static d => d.PhysicalFunction is null);

    private SimNode? PickPhysical() => Pick(static d => d.TotalVirtualFunctions > 0);

    // One that is in the tree.
    private SimNode? Pick(Func<PciDevice, bool> isMeant)
    {
        var count = 0;
        foreach (var node in _present)
            count += node.IsInTree && isMeant(node.Device) ? 1 : 0;
        if (count == 0)
            return null;
        var at = Next(count);
        return _present.First(n => n.IsInTree && isMeant(n.Device) && at-- == 0);
    }

    private SimPciDriver? PickDriver() => _drivers.Count == 0 ? null : _drivers[Next(_drivers.Count)];

    // Drivers.
    public async ValueTask ProbeAsync(SimPciDriver driver, PciDevice device, CancellationToken token)
    {
        var node = NodeOf(device);
        Enter(node, "probe");
        Require(node.Model == Bound.No, $"{node} is probed by {driver} while {node.Model} with {node.By}");
        Require(driver.MayProbe, $"{driver} probes {node} but is not registered");
        Require(device.DriverOverride is not null || device.PhysicalFunction is not { Sriov.DriversAutoprobe: false }, $"{node} is probed though its physical function says no");
        Require(node.Buffers.TrueForAll(b => b.IsForgotten), $"{node} is probed with buffers left");
        Require(driver.Kind.IsUser || node.User is null, $"{driver} of the host probes {node} while {node.User?.Name} owns its DMA");
        (node.Model, node.By) = (Bound.Probing, driver);
        node.Epoch++;
        if (node.User is null)
            node.Attached.Clear();
        CheckOwner(node);
        var ok = false;
        try
        {
            if (driver.Kind.IsUser)
                await ProbeForUsersAsync(node, driver, token);
            else
                await ProbeForHostAsync(node, driver, token);
            await CallBackAsync();
            ok = true;
        }
        finally
        {
            Leave(node, "probe");
            node.Model = ok ? Bound.Yes : Bound.No;
            if (!ok)
                node.By = null;
        }
    }

    public async ValueTask RemoveAsync(SimPciDriver driver, PciDevice device)
    {
        var node = NodeOf(device);
        Enter(node, "remove");
        Require(node.Model == Bound.Yes && node.By == driver, $"{driver} removes {node}, which is {node.Model} with {node.By}");
        Require(!device.IsOut, $"{node} is removed but not in the tree");
        if (device.PhysicalFunction is { } physical)
            Require(!physical.IsOut && physical.Binding.State != BindingState.Unbound, $"{node} is unbound after its physical function");
        node.Model = Bound.Removing;
        try
        {
            if (driver.Kind.IsUser)
                await UnregisterAsync(node);
            await PauseAsync();
            await CallBackAsync();
            Poke(node);
            // One that forgets leaves it to the bus.
            if (device.VirtualFunctions.Count > 0 && Next(3) > 0)
                await RefusableAsync(() => ConfigureAsync(device, 0));
            if (Next(3) > 0)
                device.FreeVectors();
            if (Chance(25))
                throw new InvalidOperationException("bug");
        }
        finally
        {
            Leave(node, "remove");
            (node.Model, node.By) = (Bound.No, null);
        }
    }

    // A callback that does what operators do: bounded nesting, refusals allowed.
    private async ValueTask CallBackAsync()
    {
        if (_depth > 2 || !Chance(12))
            return;
        _depth++;
        Note("from a callback");
        await RefusableAsync(OperateOnceAsync);
        _depth--;
    }

    public async ValueTask ConfigureAsync(PciDevice device, int count)
    {
        var node = NodeOf(device);
        Note("configure", device.Name, $"{count}");
        node.Changes++;
        try
        {
            if (device.Function is SimCard card && count > 0)
                card.RunsShort = Chance(12);
            await device.SetVirtualFunctionsAsync(count, count > 0 ? PrepareAsync : null);
            Require(device.VirtualFunctions.Count == count, $"{node} has {device.VirtualFunctions.Count} virtual functions after {count} were asked for");
        }
        finally
        {
            node.Changes--;
            if (device.Function is SimCard card)
                card.RunsShort = false;
        }
    }

    private async ValueTask PrepareAsync(PciDevice function)
    {
        var node = NodeOf(function);
        Note("prepare", function.Name);
        Require(!node.IsInTree && node.By is null, $"{node} is seen before it is prepared");
        if (Chance(3))
            Fabric.SetDriverOverride(function, Kinds[Next(Kinds.Length)].Name);
        await PauseAsync();
        Poke(node);
        if (Chance(25))
            throw new VirtbusException(Errno.EIO, "not prepared");
    }

    private async ValueTask ProbeForHostAsync(SimNode node, SimPciDriver driver, CancellationToken token)
    {
        var device = node.Device;
        device.Enable();
        device.Resources.AddAction(() =>
        {
            device.Disable();
            return default;
        });
        FailMaybe(driver);
        device.SetMaster(true);
        for (var n = Next(3); n > 0; n--)
        {
            Require(node.Group.TryAllocate(Page * (ulong)(1 + Next(2)), out var real, out var fault), $"{driver} gets no memory for {node}: {fault.Errno}");
            if (real is null)
                continue;
            var buffer = new SimBuffer(this, node, real) { IsForgotten = Chance(5) };
            node.Buffers.Add(buffer);
            device.Resources.Add(buffer);
            Poke(node);
            await PauseAsync();
        }
        token.ThrowIfCancellationRequested();
        FailMaybe(driver);
        if (Next(2) == 0)
        {
            foreach (var vector in device.AllocateVectors(1, 2, PciInterruptKinds.MsiX))
                vector.SetHandler(() => Require(device.Binding.Driver == driver, $"an interrupt of {node} reaches {driver}, which does not have it"));
        }
        // Its own business with one PASID, as for a part that serves a user.
        if (Next(3) == 0)
        {
            var space = SpaceOf(_users[Next(_users.Length)]);
            Require(node.Group.TryAttachPasid(node.Port.ForPasid(7), space.Real, out var fault), $"{driver} can't attach a PASID of {node}: {fault.Errno}");
            node.Attached[7] = (space, node.Epoch);
        }
        await PauseAsync();
        FailMaybe(driver);
    }

    private async ValueTask ProbeForUsersAsync(SimNode node, SimPciDriver driver, CancellationToken token)
    {
        FailMaybe(driver);
        Require(!node.Group.TryAllocate(Page, out _, out var fault) && fault.Errno == Errno.EPERM, $"{driver} does no DMA and got memory for {node}");
        await PauseAsync();
        token.ThrowIfCancellationRequested();
        try
        {
            node.Vfio = new SimVfioOps(this, node);
            var vfio = await _vfio.RegisterAsync(node.Device, node.Device.Name, node.Vfio);
            _registered.Add(vfio);
            node.Vfio.Device = vfio;
        }
        catch
        {
            node.Vfio = null;
            throw;
        }
        await PauseAsync();
        try
        {
            FailMaybe(driver);
        }
        catch
        {
            await UnregisterAsync(node);
            throw;
        }
    }

    private async ValueTask UnregisterAsync(SimNode node)
    {
        var vfio = node.Vfio!;
        vfio.IsLeaving = true;
        var wasOpen = vfio.IsOpen;
        var requests = vfio.Requests;
        var unregister = _vfio.UnregisterAsync(vfio.Device!);
        Require(!wasOpen || !vfio.IsOpen || vfio.Requests > requests, $"{node} is wanted back and its user was not asked");
        await unregister;
        Require(!vfio.IsOpen, $"{node} was let go while a user had it open");
        Require(vfio.Opens == vfio.Closes, $"{node} was opened {vfio.Opens} times and closed {vfio.Closes} times");
        Require(vfio.Device!.IsOut, $"{vfio.Device} is unregistered and in the tree");
        node.Vfio = null;
    }

    private void FailMaybe(SimPciDriver driver)
    {
        if (!Chance(driver.Kind.Fails ? 4 : 40))
            return;
        throw Next(4) switch
        {
            0 => new VirtbusException(Errno.ENODEV, "not mine"),
            1 => new ProbeDeferException("not yet"),
            2 => new InvalidOperationException("bug"),
            _ => new VirtbusException(Errno.EIO, "no answer"),
        };
    }

    private void Enter(SimNode node, string callback)
    {
        Require(node.Running is null, $"{callback} of {node} runs beside its {node.Running}");
        node.Running = callback;
        Note(callback, node.Device.Name);
    }

    private void Leave(SimNode node, string callback)
    {
        Require(node.Running == callback, $"{callback} of {node} ends while {node.Running} runs");
        node.Running = null;
        Note("end of", callback, node.Device.Name);
    }

    // Users.
    private void Use(SimUser user)
    {
        if (user.Opens.Count > 0 && Next(4) > 0)
            UseOpen(user, user.Opens[Next(user.Opens.Count)]);
        else if (Next(3) > 0)
            Open(user);
        else
            UseSpace(SpaceOf(user));
    }

    private void Open(SimUser user)
    {
        // Also what is gone already.
        var all = Next(6) == 0 ? _registered : _transport.Known;
        if (all.Count == 0)
            return;
        var device = all[Next(all.Count)];
        var ops = (SimVfioOps)device.Ops;
        var isLeaving = ops.IsLeaving || ops.IsRevoked || device.IsGone || device.State != DeviceState.Added;
        var wasOpen = ops.IsOpen;
        var opens = ops.Opens;
        var isOpened = device.TryOpen(user.Name, out var handle, out var fault);
        Note("open", ops.Node.Device.Name, isOpened ? user.Name : fault.Errno.ToString());
        if (!isOpened)
        {
            Require(!isLeaving || (fault.Errno == Errno.ENODEV && ops.Opens == opens), $"{ops.Node} is going away and was opened, or refused with {fault.Errno}");
            Require(isLeaving || !wasOpen || fault.Errno == Errno.EBUSY, $"{ops.Node} is open and a second open was refused with {fault.Errno}");
            Require(isLeaving || wasOpen || fault.Errno != Errno.EBUSY || ops.Node.User is not null, $"{ops.Node} is free and refused a user with EBUSY");
            Require(ops.IsOpen == wasOpen, $"{ops.Node} is open after a refused open");
            return;
        }
        Require(!isLeaving, $"{ops.Node} is going away and was opened");
        Require(!wasOpen, $"{ops.Node} was opened by two users");
        Require(ops.IsOpen && device.User == user.Name, $"{ops.Node} was opened by {user.Name} and says {device.User}");
        var open = new SimOpen(ops, handle!, Next(4), isStubborn: Next(3) == 0);
        user.Opens.Add(open);
        open.Handle.SetRequestCallback(revoked => Requested(user, open, revoked));
    }

    private void Requested(SimUser user, SimOpen open, bool revoked)
    {
        Note(revoked ? "revoked" : "asked", open.Ops.Node.Device.Name, user.Name);
        Require(!open.IsRevoked, $"{user.Name} is asked for {open.Ops.Node} after it was taken away");
        if (revoked)
        {
            open.IsRevoked = true;
            Require(open.Handle.IsRevoked, $"{user.Name} is told that {open.Ops.Node} was taken away, which it was not");
            CheckDead(open);
            return;
        }
        Require(!open.IsClosed, $"{user.Name} is asked for {open.Ops.Node} after it closed it");
        if (open.IsClosing || (open.Asked++ < open.Patience && !IsEnding))
            return;
        open.IsClosing = true;
        // Not from here: who is asked must not wait for the handle.
        _beside.Add(Scheduler.Start(() => CloseLaterAsync(user, open)));
    }

    private async Task CloseLaterAsync(SimUser user, SimOpen open)
    {
        for (var n = Next(8); n > 0; n--)
            await PauseAsync();
        Close(user, open);
    }

    private void Close(SimUser user, SimOpen open)
    {
        Note("close", open.Ops.Node.Device.Name, user.Name);
        open.Handle.Dispose();
        open.IsClosed = true;
        user.Opens.Remove(open);
        Require(open.IsRevoked || !open.Ops.IsOpen || open.Ops.Device!.User != open.Handle.User || _users.Any(u => u.Opens.Exists(o => o.Ops == open.Ops)), $"{open.Ops.Node} was closed and is open");
        CheckDead(open);
    }

    private void UseOpen(SimUser user, SimOpen open)
    {
        if (open.IsRevoked)
        {
            CheckDead(open);
            if (Chance(3))
                Close(user, open);
            return;
        }
        switch (Next(8))
        {
            case 0:
                if (open is { IsClosing: false, IsStubborn: false } && Next(2) == 0)
                    Close(user, open);
                break;
            case 1 or 2:
                AttachByHandle(open, Next(5) == 0 ? null : SpaceOf(user));
                break;
            case 3:
                UseRegisters(open);
                break;
            case 4:
                var isMaster = Next(4) > 0;
                if (open.Handle.TryWrite(SimVfioOps.Master, 0, [(byte)(isMaster ? 1 : 0)], out _) && !open.Ops.Node.Device.IsLost && !open.Ops.Node.Device.IsGone && open.Ops.Node.Function.IsPresent)
                    Require(open.Ops.Node.Port.IsBusMaster == isMaster, $"bus mastering of {open.Ops.Node} is not {isMaster}");
                break;
            case 5:
                Note("user resets", open.Ops.Node.Device.Name);
                open.Handle.TryReset(out _);
                break;
            default:
                UseSpace(SpaceOf(user));
                break;
        }
        Poke(open.Ops.Node);
    }

    private void AttachByHandle(SimOpen open, SimSpace? space)
    {
        var node = open.Ops.Node;
        var pasid = Next(3) == 0 ? 1u + (uint)Next(2) : 0;
        var done = open.Handle.TryAttach(space?.Real, pasid == 0 ? null : pasid, out var fault);
        Note("attach", node.Device.Name, space?.Name);
        Require(done, $"the user of {node} can't attach {space?.Name}: {fault.Errno}");
        Attached(node, space, pasid);
    }

    private void UseRegisters(SimOpen open)
    {
        var node = open.Ops.Node;
        var at = Next(ISimFunction.RegisterCount);
        var value = ((ulong)Next(1 << 30) << 8) | 1;
        Span<byte> bytes = stackalloc byte[8];
        BitConverter.TryWriteBytes(bytes, value);
        var isWritten = open.Handle.TryWrite(SimVfioOps.Registers, (ulong)at * 8, bytes, out var fault);
        Require(isWritten || fault.Errno == Errno.EIO, $"the user of {node} can't write a register: {fault.Errno}");
        Require(!isWritten || node.Function.Registers[at] == value || !node.Function.IsPresent, $"a register of {node} was written and has another value");
        var isRead = open.Handle.TryRead(SimVfioOps.Registers, (ulong)at * 8, bytes, out fault);
        Require(isRead == isWritten, $"a register of {node} can be written and not read, or the other way round");
        Require(!isRead || BitConverter.ToUInt64(bytes) == node.Function.Registers[at] || !node.Function.IsPresent, $"a register of {node} reads as another value");
        // In the middle of a call of its user.
        if (Chance(30))
            _beside.Add(Scheduler.Start(() => RefusableAsync(() => SurpriseAsync(node)).AsTask()));
    }

    private SimSpace SpaceOf(SimUser user)
    {
        if (user.Spaces.Count < 2 && (user.Spaces.Count == 0 || Next(2) == 0))
            user.Spaces.Add(new SimSpace($"s{++_made}"));
        return user.Spaces[Next(user.Spaces.Count)];
    }

    private void UseSpace(SimSpace space)
    {
        var start = HostBase + (Page * (ulong)Next(8));
        var size = Page * (ulong)(1 + Next(3));
        if (Next(12) == 0)
        {
            Note("dispose", space.Name);
            space.Dispose();
            foreach (var user in _users)
                user.Spaces.Remove(space);
        }
        else if (Next(3) > 0)
        {
            Map(space, start, size);
        }
        else
        {
            Unmap(space, start, size);
        }
    }

    private void Map(SimSpace space, ulong start, ulong size)
    {
        var map = new SimMap(start, size, Page * (ulong)Next((int)((MemorySize - size) / Page)), (DmaAccess)(1 + Next(3)));
        var overlaps = space.Maps.Exists(m => m.Start <= map.Last && start <= m.Last);
        var done = space.Real.TryMap(new Iova(start), size, _memory, map.Offset, map.Access, out var fault);
        Note("map", space.Name, $"{start:x}");
        Require(done != overlaps, $"{space.Name} has {(overlaps ? "something" : "nothing")} at {start:x} and a map was answered with {fault.Errno}");
        if (!done)
            return;
        space.Maps.Add(map);
        LookAt(space, start);
    }

    private void Unmap(SimSpace space, ulong start, ulong size)
    {
        var last = start + (size - 1);
        var inside = space.Maps.Where(m => m.Start <= last && start <= m.Last).ToArray();
        var splits = Array.Exists(inside, m => m.Start < start || m.Last > last);
        var done = space.Real.TryUnmap(new IovaRange(new Iova(start), size), out var unmapped, out var fault);
        Note("unmap", space.Name, $"{start:x}");
        Require(done != splits, $"an unmap of {start:x} in {space.Name} was answered with {fault.Errno}");
        if (!done)
            return;
        Require(unmapped == inside.Aggregate(0ul, (sum, m) => sum + m.Size), $"an unmap of {start:x} in {space.Name} says {unmapped} bytes");
        space.Maps.RemoveAll(inside.Contains);
        LookAt(space, start);
    }

    public void Revoke(SimVfioOps ops)
    {
        Note("revoke", ops.Node.Device.Name);
        ops.IsRevoked = true;
        ops.Device!.Revoke();
    }
}
