using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Virtbus.Core;
using Virtbus.Pci;
using Virtbus.Platform;
using static Virtbus.Pci.PciBridgeControl;
using static Virtbus.Pci.PciHeader;
using static Virtbus.Pci.PciSriov;

namespace Virtbus.Buses.Pci;

/// <summary>
/// The PCI bus: host bridges, slots, routing ids, matching by id. Hardware is put in as an <see cref="IPciFunction"/>, whoever provides it; the
/// bus reads its ids, sizes its BARs, gives it addresses and adds a <see cref="PciDevice"/> to the tree.
/// </summary>
/// <remarks>
/// All members are safe to call from any thread. The hardware in a slot stays when its device is removed, and comes back by a rescan; it
/// leaves the slot when it is unplugged or lost. Functions are not disposed by the bus, who made them does that; except for those that it opened
/// itself at a provider. The file is long: what the topology lock guards changes in many steps, which stand where each can be seen beside the others.
/// </remarks>
public sealed partial class PciBus : Bus
{
    // Two bus numbers a port: one for its slot and one for virtual functions that do not fit there.
    private const int NumbersOfPort = 2;
    private const int FirstIrq = 24;

    private readonly Lock _topology = new();
    private readonly SortedDictionary<ushort, PciHostBridge> _hosts = [];
    private readonly IdAllocator _groups = new();
    private readonly IdAllocator _irqs = new();
    private readonly IdAllocator _ports = new(255);
    private ILogger? _log;

    /// <summary>Makes the bus; register it with a fabric.</summary>
    public PciBus()
        : base("pci")
    {
        Faults = new FaultSink((device, work, exception, suppressed) => PciLog.FunctionFailed(Log, device, work, suppressed, exception));
    }

    /// <inheritdoc/>
    public override bool HasDriverOverride => true;

    /// <summary>The host bridges by domain.</summary>
    public IReadOnlyList<PciHostBridge> HostBridges
    {
        get
        {
            lock (_topology)
                return [.. _hosts.Values];
        }
    }

    /// <summary>Adds a host bridge with its root bus: <c>/devices/pci0000:00</c>.</summary>
    /// <param name="domain">Its domain.</param>
    /// <exception cref="VirtbusException">EEXIST: the domain has one.</exception>
    public async ValueTask<PciHostBridge> AddHostBridgeAsync(ushort domain = 0)
    {
        var fabric = FabricOrThrow();
        var host = new PciHostBridge(domain);
        try
        {
            await fabric.AddAsync(host);
        }
        finally
        {
            // The tree's reference is the only one: it lives as long as it is in the tree. So do the devices of this bus.
            host.Put();
        }
        lock (_topology)
            _hosts[domain] = host;
        return host;
    }

    /// <summary>Adds a root port: a bridge on a root bus, or on the bus of another bridge, with one hot-plug slot behind.</summary>
    /// <param name="parent">A host bridge, or a bridge.</param>
    /// <param name="device">Its device number; the lowest free one when null.</param>
    /// <exception cref="VirtbusException">As <see cref="AddFunctionAsync"/>.</exception>
    public ValueTask<PciDevice> AddPortAsync(Device parent, int? device = null)
    {
        var segment = FindSegment(parent);
        PciSlot slot;
        lock (_topology)
        {
            var number = device ?? LowestFree(segment, parent);
            var port = (byte)_ports.Allocate();
            try
            {
                slot = Reserve(segment, number, 0, new PciRootPort((byte)(port + 1)));
                slot.Port = port;
                slot.IsOwned = true;
            }
            catch
            {
                _ports.Free(port);
                throw;
            }
        }
        return AddAsync(slot);
    }

    /// <summary>
    /// Puts a function into a slot of its own: the one of the first port that is empty; a port, and a host bridge, are made when there is none.
    /// </summary>
    /// <param name="function">The hardware.</param>
    /// <param name="label">What people call it, see <see cref="PciDevice.Label"/>.</param>
    /// <param name="prepare">Called before the device is added to the tree, so that a driver's probe finds it ready; for example to set its driver_override.</param>
    /// <exception cref="VirtbusException">
    /// EEXIST: another slot has the label; else as <see cref="AddFunctionAsync"/>, or what <paramref name="prepare"/> throws.
    /// </exception>
    public ValueTask<PciDevice> PlugAsync(IPciFunction function, string? label = null, Func<PciDevice, ValueTask>? prepare = null) =>
        PlugAsync(function, label, prepare, isOwned: false);

    private async ValueTask<PciDevice> PlugAsync(IPciFunction function, string? label, Func<PciDevice, ValueTask>? prepare, bool isOwned)
    {
        while (true)
        {
            PciSlot? slot = null;
            PciHostBridge? host;
            lock (_topology)
            {
                host = _hosts.Values.FirstOrDefault(static h => h.State == DeviceState.Added);
                if (label is not null && FindSlot(s => s.Label == label) is { } other)
                    throw new VirtbusException(Errno.EEXIST, $"The function at {other.Address} is called '{label}' already. Choose another name.");
                foreach (var port in host?.Root.Slots.Values ?? Enumerable.Empty<PciSlot>())
                {
                    if (port is not { Secondary: { Slots.Count: 0 } behind, Device.State: DeviceState.Added })
                        continue;
                    slot = Reserve(behind, 0, 0, function, label);
                    slot.IsOwned = isOwned;
                    break;
                }
            }
            if (slot is not null)
                return await AddAsync(slot, prepare);
            host ??= await AddHostBridgeAsync();
            await AddPortAsync(host);
        }
    }

    /// <summary>
    /// Hot add: puts a function into a slot, reads its ids, sizes its BARs, assigns addresses (and bus numbers to a bridge), adds the device to the
    /// tree, tells the world and looks for a driver.
    /// </summary>
    /// <param name="parent">A host bridge, or a bridge.</param>
    /// <param name="function">The hardware.</param>
    /// <param name="device">The device number; when null the lowest free one, which behind a port is 0.</param>
    /// <param name="functionNumber">The function number, 0 to 7.</param>
    /// <exception cref="VirtbusException">
    /// EINVAL: <paramref name="parent"/> is no bridge of this bus, or a number is out of range; EEXIST: the place is taken; ENOSPC: no place or no bus
    /// number is left; ENODEV: nothing answers, or the bridge is gone. Nothing is left behind.
    /// </exception>
    public ValueTask<PciDevice> AddFunctionAsync(Device parent, IPciFunction function, int? device = null, int functionNumber = 0)
    {
        ArgumentNullException.ThrowIfNull(function);
        var segment = FindSegment(parent);
        PciSlot slot;
        lock (_topology)
            slot = Reserve(segment, device ?? LowestFree(segment, parent), functionNumber, function);
        return AddAsync(slot);
    }

    /// <summary>
    /// Takes a device out of the tree in order: its virtual functions and what is below it first, then its driver is unbound. The hardware stays in its
    /// slot and comes back by a rescan. Linux: <c>remove</c>.
    /// </summary>
    /// <param name="device">The device.</param>
    /// <exception cref="VirtbusException">EDEADLK: called from a callback that the removal would wait for.</exception>
    public async ValueTask RemoveAsync(PciDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        var below = Below(device);
        await FabricOrThrow().DeleteAsync(device);
        foreach (var one in below)
            one.Leave();
        device.Leave();
    }

    /// <summary>As <see cref="RemoveAsync"/>, and takes the hardware (and all behind a bridge) out of its slot. Its maker may dispose it then.</summary>
    /// <param name="device">The device; not a virtual function.</param>
    /// <exception cref="VirtbusException">
    /// EINVAL: a virtual function is not plugged by itself; ENODEV: it was removed, and another device has come for its hardware; else as <see cref="RemoveAsync"/>.
    /// </exception>
    public async ValueTask UnplugAsync(PciDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        if (device.Slot is not { } slot)
            throw new VirtbusException(Errno.EINVAL, $"Device {device.Name} is a virtual function. Write the number wanted to sriov_numvfs of {device.PhysicalFunction?.Name}.");
        if (!TryBeginLeave(slot, device))
            throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} was removed, and its hardware has another device by now. Unplug that one.");
        await LeaveAsync(slot, device);
    }

    /// <summary>
    /// As <see cref="UnplugAsync(PciDevice)"/>, with the device that stands for the hardware now: by a remove and a rescan that may be another one than
    /// the one that it was given first. Without effect when the hardware is in no slot.
    /// </summary>
    /// <param name="function">The hardware; not a virtual function.</param>
    /// <exception cref="VirtbusException">As <see cref="RemoveAsync"/>.</exception>
    public async ValueTask UnplugAsync(IPciFunction function)
    {
        ArgumentNullException.ThrowIfNull(function);
        while (true)
        {
            PciSlot? slot;
            PciDevice? device;
            lock (_topology)
            {
                slot = FindSlot(s => s.Function == function);
                device = slot?.Device;
            }
            if (slot is null)
                return;
            if (!TryBeginLeave(slot, device))
            {
                // A scan gives it a device just now, or gave it another one.
                await Task.Yield();
                continue;
            }
            await LeaveAsync(slot, device);
            return;
        }
    }

    /// <summary>
    /// The hardware was pulled out: from now on nothing of it answers; the devices are taken out, whatever is going on with them. Functions that tell
    /// of their loss themselves come here too.
    /// </summary>
    /// <param name="device">The device; what is below a bridge goes with it.</param>
    public async ValueTask SurpriseRemoveAsync(PciDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        var fabric = FabricOrThrow();
        // Everything is marked before anything is waited for, so that no driver takes a part for alive.
        device.MarkLost();
        var leaves = device.Slot is { } place && TryBeginLeave(place, device);
        PciDevice[] below = [.. Below(device), .. device.VirtualFunctions];
        foreach (var one in below)
            one.MarkLost();
        var removals = new List<ValueTask>();
        foreach (var function in device.VirtualFunctions.Reverse())
            removals.Add(fabric.SurpriseRemoveAsync(function));
        removals.Add(fabric.SurpriseRemoveAsync(device));
        foreach (var removal in removals)
            await removal;
        // Called from a callback that a removal has to wait for: it follows.
        if (IsInTree(device) || below.Any(IsInTree))
        {
            StartSurpriseRemoval(device);
            return;
        }
        foreach (var one in below)
            one.Leave();
        device.Leave();
        if (leaves)
            Empty(device.Slot!);
    }

    /// <summary>Looks through all buses for hardware without a device and adds it; what was removed comes back so. Linux: <c>rescan</c>.</summary>
    public async ValueTask RescanAsync()
    {
        foreach (var host in HostBridges)
            await RescanAsync(host.Root);
    }

    /// <summary>As <see cref="RescanAsync()"/>, for the bus that a device is on and for all below it.</summary>
    /// <param name="device">The device.</param>
    public ValueTask RescanAsync(PciDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        return RescanAsync(device.Segment);
    }

    /// <summary>The device at an address.</summary>
    /// <param name="address">The address.</param>
    public PciDevice? Find(PciAddress address) => TryGetDevice(address.ToString(), out var device) ? (PciDevice)device : null;

    /// <inheritdoc/>
    public override DeviceId? Match(IDeviceIdentity device, Driver driver) =>
        device is IPciIdentity identity && driver is PciDriver pci ? pci.Match(identity) : null;

    /// <inheritdoc/>
    protected override string? MatchKey(IDeviceIdentity device) =>
        device is IPciIdentity identity ? PciDriver.MatchKey(identity.VendorId, identity.DeviceId) : null;

    /// <inheritdoc/>
    protected override IReadOnlyCollection<string>? MatchKeys(Driver driver) => (driver as PciDriver)?.MatchKeys();

    /// <inheritdoc/>
    protected override string? GetModalias(Device device) => device is not PciDevice pci
        ? null
        : $"{PciDeviceId.ModaliasPrefix}v{pci.VendorId:X8}d{pci.DeviceId:X8}sv{pci.SubsystemVendorId:X8}sd{pci.SubsystemId:X8}"
        + $"bc{pci.ClassCode >> 16:X2}sc{(pci.ClassCode >> 8) & 0xFF:X2}i{pci.ClassCode & 0xFF:X2}";

    /// <inheritdoc/>
    protected override void AddUeventVariables(Device device, UeventVariables variables)
    {
        if (device is not PciDevice pci)
            return;
        variables.Add("PCI_CLASS", $"{pci.ClassCode:X4}");
        variables.Add("PCI_ID", $"{pci.VendorId:X4}:{pci.DeviceId:X4}");
        variables.Add("PCI_SUBSYS_ID", $"{pci.SubsystemVendorId:X4}:{pci.SubsystemId:X4}");
        variables.Add("PCI_SLOT_NAME", pci.Name);
    }

    /// <inheritdoc/>
    protected override ValueTask ConfigureAsync(Device device, Driver driver)
    {
        if (device is not PciDevice pci)
            return default;
        if (pci is { DriverOverride: null, PhysicalFunction: { Sriov.DriversAutoprobe: false } physical })
        {
            throw new VirtbusException(
                Errno.ENODEV, $"Device {pci.Name} takes no driver: sriov_drivers_autoprobe of {physical.Name} is 0. Name the driver in its driver_override, or write 1 there.");
        }
        if (driver is PciDriver { IsDmaManagedByUser: false } && !pci.IommuGroup.TryClaimForDriver(driver.Name, out _))
        {
            throw new VirtbusException(
                Errno.EBUSY, $"Device {pci.Name} is owned by {pci.IommuGroup.OwnerName ?? "a user"}, so driver {driver.Name} can't have its DMA. Let that user close it first.");
        }
        return default;
    }

    /// <inheritdoc/>
    protected override async ValueTask UnconfigureAsync(Device device, Driver driver)
    {
        if (device is not PciDevice pci)
            return;
        try
        {
            if (pci.VirtualFunctions.Count > 0)
            {
                PciLog.FunctionsLeft(Log, pci.Name, driver.Name, pci.VirtualFunctions.Count);
                await RemoveVirtualFunctionsAsync(pci);
            }
            if (pci.Vectors.Count > 0)
            {
                PciLog.VectorsLeft(Log, pci.Name, driver.Name);
                pci.FreeVectors();
            }
        }
        finally
        {
            // Whatever became of the rest, its DMA has no owner that is gone.
            if (driver is PciDriver { IsDmaManagedByUser: false })
                pci.IommuGroup.ReleaseDriver(driver.Name);
        }
    }

    /// <inheritdoc/>
    protected override IReadOnlyList<AttributeGroup> AttributeGroups => PciAttributes.OfBus;

    /// <inheritdoc/>
    protected override IReadOnlyList<AttributeGroup> DeviceAttributeGroups => PciAttributes.OfDevice;

    /// <inheritdoc/>
    protected override IReadOnlyList<AttributeGroup> DriverAttributeGroups => PciAttributes.OfDriver;

    /// <inheritdoc/>
    protected override IEnumerable<TreeNode> KernelNodes
    {
        get
        {
            yield return new TreeDirectory(
                "iommu_groups", () => Devices.OfType<PciDevice>().GroupBy(static d => d.Group.Number).OrderBy(static g => g.Key).Select(GroupDirectory));
        }
    }

    /// <summary>Where functions tell of bugs of their models; each device is a source. They are logged.</summary>
    public FaultSink Faults { get; }

    internal ILogger Log => _log ??= Fabric?.LoggerFactory.CreateLogger("Virtbus.Pci") ?? NullLogger.Instance;

    internal uint AllocateGroup() => _groups.Allocate();

    internal void FreeGroup(uint group) => _groups.Free(group);

    internal uint AllocateIrq() => FirstIrq + _irqs.Allocate();

    internal void FreeIrq(int irq) => _irqs.Free((uint)(irq - FirstIrq));

    /// <summary>A device left: its place and its addresses are free again.</summary>
    internal void Forget(PciDevice device)
    {
        lock (_topology)
        {
            if (device.PhysicalFunction is not null)
            {
                device.Segment.Host.VirtualIds.Remove(device.Address.RoutingId);
                return;
            }
            PciScan.Release(device);
            device.Segment.Withdraw();
            if (device.Slot is not { } slot)
                return;
            if (slot.Device == device)
                slot.Device = null;
            if (slot.Device is null)
                slot.Group = null;
        }
    }

    internal bool IsAloneOnBus(PciDevice device)
    {
        if (device.PhysicalFunction is not null || device.IsBridge || device.VirtualFunctions.Count > 0)
            return false;
        lock (_topology)
        {
            // On a root bus every slot has a reset line of its own.
            var isRoot = device.Segment.BridgeSlot is null;
            return device.Segment.Slots.Values.All(s => s == device.Slot || (isRoot && s.DevFn >> 3 != device.Address.Device));
        }
    }

    /// <summary>Resets the bus behind a port by its Secondary Bus Reset, or a root bus's slot by its line.</summary>
    internal static void ResetBus(PciDevice device)
    {
        if (device.Parent is PciDevice bridge)
        {
            var control = (ushort)(bridge.ReadConfig16(PCI_BRIDGE_CONTROL) & ~PCI_BRIDGE_CTL_BUS_RESET);
            bridge.WriteConfig16(PCI_BRIDGE_CONTROL, (ushort)(control | PCI_BRIDGE_CTL_BUS_RESET));
            bridge.WriteConfig16(PCI_BRIDGE_CONTROL, control);
        }
        else
        {
            device.Function.Reset();
            device.RefreshCommand();
        }
    }

    /// <summary>Somebody set a bridge's Secondary Bus Reset: everything behind it is reset.</summary>
    internal void ResetBehind(PciDevice bridge)
    {
        foreach (var device in Below(bridge))
        {
            device.Function.Reset();
            device.RefreshCommand();
        }
    }

    /// <summary>Enables or removes virtual functions.</summary>
    internal async ValueTask SetVirtualFunctionsAsync(PciDevice device, int count, Func<PciDevice, ValueTask>? prepare)
    {
        if (device.Sriov is not { } sriov)
            throw new VirtbusException(Errno.ENOSYS, $"Device {device.Name} has no SR-IOV capability, so it has no virtual functions.");
        if (count < 0 || count > sriov.Total)
            throw new VirtbusException(Errno.ERANGE, $"Device {device.Name} has 0 to {sriov.Total} virtual functions, not {count}.");
        if (!sriov.TryBeginChange(out _))
            throw new VirtbusException(Errno.EBUSY, $"The virtual functions of {device.Name} are being changed. Try again when that has ended.");
        try
        {
            if (count == 0)
                await RemoveEnabledAsync(device, sriov);
            else if (sriov.Functions.Length > 0)
                throw new VirtbusException(Errno.EBUSY, $"Device {device.Name} has {sriov.Functions.Length} virtual functions enabled. Set 0 before {count}.");
            else
                await EnableVirtualFunctionsAsync(device, sriov, count, prepare);
        }
        finally
        {
            sriov.EndChange();
        }
    }

    /// <summary>After a reset of a physical function its virtual ones may be others.</summary>
    internal static void ReattachVirtualFunctions(PciDevice device)
    {
        var functions = device.VirtualFunctions;
        if (functions.Count == 0)
            return;
        var there = device.Function.VirtualFunctions;
        if (there.Count < functions.Count)
            PciLog.FunctionsMissing(device.PciBus.Log, device.Name, functions.Count, there.Count);
        for (var i = 0; i < functions.Count && i < there.Count; i++)
            functions[i].Replace(there[i]);
    }

    private async ValueTask EnableVirtualFunctionsAsync(PciDevice device, SriovState sriov, int count, Func<PciDevice, ValueTask>? prepare)
    {
        if (!device.IsReachable)
            throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} is gone.");
        if (Array.FindIndex(sriov.Resources, static r => r is { IsThere: true, IsAssigned: false }) is >= 0 and var bar)
            throw new VirtbusException(Errno.ENOSPC, $"Device {device.Name}: VF BAR {bar} has no address. Free space below {device.Parent?.Name}, remove the device and rescan.");
        var host = device.Segment.Host;
        var control = sriov.Capability + PCI_SRIOV_CTRL;
        device.WriteConfig16(sriov.Capability + PCI_SRIOV_NUM_VF, (ushort)count);
        // Both may depend on the number and on ARI, so they are read now.
        var offset = device.ReadConfig16(sriov.Capability + PCI_SRIOV_VF_OFFSET);
        var stride = device.ReadConfig16(sriov.Capability + PCI_SRIOV_VF_STRIDE);
        var ids = new ushort[count];
        var functions = new List<PciDevice>(count);
        var fabric = FabricOrThrow();
        try
        {
            lock (_topology)
            {
                for (var i = 0; i < count; i++)
                    ids[i] = TakeVirtualId(device, device.Address.RoutingId + offset + (stride * i), i);
            }
            if (device.Segment.BridgeSlot?.Device is { } port)
                PciScan.ProgramBridge(port, device.Segment);
            device.WriteConfig16(control, (ushort)(device.ReadConfig16(control) | PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE));
            var there = device.Function.VirtualFunctions;
            if (there.Count < count)
            {
                PciLog.FunctionsMissing(Log, device.Name, count, there.Count);
                throw new VirtbusException(Errno.EIO, $"Device {device.Name} shows {there.Count} virtual functions after {count} were enabled.");
            }
            for (var i = 0; i < count; i++)
            {
                var function = new PciDevice(device, i, PciAddress.FromRoutingId(host.Domain, ids[i]), there[i]);
                functions.Add(function);
                function.Enter();
                if (prepare is not null)
                    await prepare(function);
            }
        }
        catch
        {
            foreach (var function in functions)
                function.Put();
            lock (_topology)
                host.VirtualIds.ExceptWith(ids[functions.Count..]);
            Disable(device, sriov);
            throw;
        }
        sriov.Functions = [.. functions];
        // A reset while they were prepared did not know of them.
        ReattachVirtualFunctions(device);
        // In the tree in order, probed side by side.
        var adds = functions.ConvertAll(f => AddVirtualAsync(fabric, f));
        Exception? error = null;
        foreach (var add in adds)
        {
            try
            {
                await add;
            }
            catch (VirtbusException e)
            {
                error ??= e;
            }
        }
        if (error is not null)
        {
            await RemoveEnabledAsync(device, sriov);
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(error);
        }
        fabric.EmitUevent(device, UeventAction.Change, new KeyValuePair<string, string>("SRIOV_NUMVFS", $"{count}"));
    }

    private static async ValueTask AddVirtualAsync(Fabric fabric, PciDevice function)
    {
        try
        {
            await fabric.AddAsync(function);
        }
        finally
        {
            function.Put();
        }
    }

    private static ushort TakeVirtualId(PciDevice device, int id, int index)
    {
        var host = device.Segment.Host;
        var bus = id >> 8;
        if (bus != device.Segment.Number && !device.Segment.TryReach(bus))
            throw new VirtbusException(Errno.ENOSPC, $"Device {device.Name}: virtual function {index} would be on bus {bus:x2}, which is not free. Plug the device behind another port.");
        if ((bus == device.Segment.Number && device.Segment.Slots.ContainsKey(id & 0xFF)) || !host.VirtualIds.Add((ushort)id))
            throw new VirtbusException(Errno.EEXIST, $"Device {device.Name}: virtual function {index} would be at {PciAddress.FromRoutingId(host.Domain, (ushort)id)}, which is taken. Plug the device behind a port of its own.");
        return (ushort)id;
    }

    internal async ValueTask RemoveVirtualFunctionsAsync(PciDevice device)
    {
        if (device.Sriov is not { } sriov)
            return;
        while (!sriov.TryBeginChange(out var other))
            await other;
        try
        {
            await RemoveEnabledAsync(device, sriov);
        }
        finally
        {
            sriov.EndChange();
        }
    }

    private async ValueTask RemoveEnabledAsync(PciDevice device, SriovState sriov)
    {
        var fabric = FabricOrThrow();
        var functions = sriov.Functions;
        if (functions.Length == 0)
            return;
        // All of them or none.
        foreach (var function in functions)
            ThrowIfCallerDependsOn(function);
        var deletes = new List<ValueTask>(functions.Length);
        foreach (var function in functions.Reverse())
        {
            // One that was never added has nothing to be taken out of.
            if (function.Fabric is not null)
                deletes.Add(TakeOutAsync(function, device.IsGone));
        }
        Exception? error = null;
        foreach (var delete in deletes)
        {
            try
            {
                await delete;
            }
            catch (VirtbusException e)
            {
                error ??= e;
            }
        }
        if (error is not null)
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(error);
        foreach (var function in functions)
            function.Leave();
        Disable(device, sriov);
        sriov.Functions = [];
        if (device is { State: DeviceState.Added, IsGone: false })
            fabric.EmitUevent(device, UeventAction.Change, new KeyValuePair<string, string>("SRIOV_NUMVFS", "0"));
    }

    private static async ValueTask TakeOutAsync(PciDevice function, bool isGone)
    {
        if (isGone)
            await function.Fabric!.SurpriseRemoveAsync(function);
        await DeleteDependentAsync(function);
    }

    private static void Disable(PciDevice device, SriovState sriov)
    {
        var control = sriov.Capability + PCI_SRIOV_CTRL;
        device.WriteConfig16(control, (ushort)(device.ReadConfig16(control) & ~(PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE)));
        device.WriteConfig16(sriov.Capability + PCI_SRIOV_NUM_VF, 0);
    }

    private Fabric FabricOrThrow() =>
        Fabric ?? throw new VirtbusException(Errno.EINVAL, "The PCI bus is not registered with a fabric. Register it first.");

    private PciSegment FindSegment(Device parent)
    {
        ArgumentNullException.ThrowIfNull(parent);
        lock (_topology)
        {
            return parent switch
            {
                PciHostBridge host when _hosts.TryGetValue(host.Domain, out var there) && there == host => host.Root,
                PciDevice { Slot.Secondary: { } behind } bridge when bridge.PciBus == this => behind,
                _ => throw new VirtbusException(Errno.EINVAL, $"Device {parent.Name} is no bridge of this PCI bus. Name a host bridge or a port."),
            };
        }
    }

    // Device 0 of a root bus is where a PC has its host bridge.
    private static int LowestFree(PciSegment segment, Device parent)
    {
        for (var number = segment.BridgeSlot is null ? 1 : 0; number < 32; number++)
        {
            if (Enumerable.Range(number << 3, 8).All(d => !IsTaken(segment, d)))
                return number;
            // One link leads to one device; other numbers behind a port are functions of it.
            if (segment.BridgeSlot is not null)
                break;
        }
        throw new VirtbusException(Errno.ENOSPC, $"Every slot of {parent.Name} is taken. Unplug a device or add a port.");
    }

    private static bool IsTaken(PciSegment segment, int devfn) =>
        segment.Slots.ContainsKey(devfn) || segment.Host.VirtualIds.Contains((ushort)((segment.Number << 8) | devfn));

    private static PciSlot Reserve(PciSegment segment, int device, int functionNumber, IPciFunction function, string? label = null)
    {
        if (device is < 0 or > 31 || functionNumber is < 0 or > 7)
            throw new VirtbusException(Errno.EINVAL, $"{device:x2}.{functionNumber:x} is no place on a bus: devices are 0 to 31, functions 0 to 7.");
        var slot = new PciSlot(segment, (device << 3) | functionNumber, function) { IsScanning = true, Label = label };
        if (IsTaken(segment, slot.DevFn))
            throw new VirtbusException(Errno.EEXIST, $"Slot {slot.Address} is taken. Unplug what is there or choose another one.");
        segment.Slots.Add(slot.DevFn, slot);
        ShowPresence(segment, true);
        return slot;
    }

    // A port of the bus's own kind shows whether its slot is taken.
    private static void ShowPresence(PciSegment segment, bool present) => (segment.BridgeSlot?.Function as PciRootPort)?.SetPresence(present);

    private async ValueTask<PciDevice> AddAsync(PciSlot slot, Func<PciDevice, ValueTask>? prepare = null)
    {
        try
        {
            return await ScanAsync(slot, prepare)
                ?? throw new VirtbusException(Errno.ENODEV, $"Nothing answers at {slot.Address}: the function's vendor id reads as none.");
        }
        catch
        {
            Empty(slot);
            throw;
        }
    }

    // From now on no scan gives the hardware a new device. False when another one stands for it already.
    private bool TryBeginLeave(PciSlot slot, PciDevice? device)
    {
        lock (_topology)
        {
            if (slot.Device is { } now ? now != device : slot.IsScanning)
                return false;
            slot.Leaves++;
            return true;
        }
    }

    // Behind a TryBeginLeave that said yes.
    private async ValueTask LeaveAsync(PciSlot slot, PciDevice? device)
    {
        try
        {
            if (device is not null)
                await RemoveAsync(device);
        }
        catch
        {
            lock (_topology)
                slot.Leaves--;
            throw;
        }
        Empty(slot);
    }

    // Under the topology lock.
    private PciSlot? FindSlot(Func<PciSlot, bool> isWanted) => _hosts.Values.Select(h => FindSlot(h.Root, isWanted)).FirstOrDefault(static s => s is not null);

    private static PciSlot? FindSlot(PciSegment segment, Func<PciSlot, bool> isWanted)
    {
        foreach (var slot in segment.Slots.Values)
        {
            if (isWanted(slot))
                return slot;
            if (slot.Secondary is { } behind && FindSlot(behind, isWanted) is { } inner)
                return inner;
        }
        return null;
    }

    /// <summary>The hardware of a slot without a device is lost.</summary>
    internal void EmptyLost(PciSlot slot)
    {
        if (!slot.IsOwned)
        {
            Empty(slot);
            return;
        }
        // Called on a thread of the hardware, whose end waits for that thread.
        FabricOrThrow().StartWork($"end of what was at {slot.Address}", () =>
        {
            Empty(slot);
            return Task.CompletedTask;
        });
    }

    // The hardware is out of its slot, and all that is behind it.
    private void Empty(PciSlot slot)
    {
        var owned = new List<IPciFunction>();
        lock (_topology)
            Empty(slot, owned);
        // Under no lock: one that another process serves waits for who is in a call to it.
        foreach (var function in owned)
            function.Dispose();
    }

    // Under the topology lock.
    private void Empty(PciSlot slot, List<IPciFunction> owned)
    {
        if (slot.IsEmpty)
            return;
        slot.IsEmpty = true;
        slot.Function.SetLostCallback(null);
        slot.Segment.Slots.Remove(slot.DevFn);
        if (slot.Segment.Slots.Count == 0)
            ShowPresence(slot.Segment, false);
        if (slot.IsOwned)
            owned.Add(slot.Function);
        if (slot.Port is { } port)
            _ports.Free((uint)port);
        if (slot.Secondary is not { } behind)
            return;
        foreach (var inner in behind.Slots.Values.ToArray())
            Empty(inner, owned);
        for (var n = behind.Number; n <= behind.Subordinate; n++)
        {
            if (behind.Host.Owners[n] == behind)
                behind.Host.Owners[n] = slot.Segment.BridgeSlot is null ? null : slot.Segment;
        }
    }

    private async ValueTask<PciDevice?> ScanAsync(PciSlot slot, Func<PciDevice, ValueTask>? prepare = null)
    {
        var fabric = FabricOrThrow();
        Device parent;
        PciGroup group;
        lock (_topology)
        {
            slot.IsScanning = true;
            parent = slot.Segment.Parent
                ?? throw new VirtbusException(Errno.ENODEV, $"Slot {slot.Address} can't be scanned: the bridge above has no device. Rescan the bus above first.");
            group = slot.Segment.Slots.Values.FirstOrDefault(s => s.Group is not null && s.DevFn >> 3 == slot.DevFn >> 3)?.Group ?? new PciGroup(this);
            slot.Group = group.Join();
        }
        PciDevice? device = null;
        try
        {
            device = new PciDevice(this, slot.Address, parent, slot.Function, slot.Segment, group) { Slot = slot };
            if (!device.Enter())
                return null;
            PciScan.Size(device);
            Assign(device, slot);
            slot.Function.SetLostCallback(() => Lost(device));
            if (prepare is not null)
                await prepare(device);
            await fabric.AddAsync(device);
            // Lost before it was in the tree: nothing could be taken out then.
            if (device.IsLost || !slot.Function.IsPresent)
                StartSurpriseRemoval(device);
            return device;
        }
        finally
        {
            lock (_topology)
                slot.IsScanning = false;
            device?.Put();
        }
    }

    private void Assign(PciDevice device, PciSlot slot)
    {
        List<int> without;
        lock (_topology)
        {
            if (device.IsBridge && slot.Secondary is null)
            {
                var wanted = slot.Segment.BridgeSlot is null ? NumbersOfPort : 1;
                if (!slot.Segment.TryTakeNumbers(wanted, out var first))
                    throw new VirtbusException(Errno.ENOSPC, $"Bridge {device.Name} gets no bus number: all of {slot.Segment.Parent?.Name} are taken. Unplug a bridge first.");
                slot.Secondary = new PciSegment(slot.Segment.Host, slot, first, first + wanted - 1);
                for (var n = first; n < first + wanted; n++)
                    slot.Segment.Host.Owners[n] = slot.Secondary;
            }
            without = PciScan.Assign(device);
            slot.Device = device;
        }
        foreach (var bar in without)
        {
            var resource = bar < PciBar.Count ? device.Bars[bar] : device.Sriov!.Resources[bar - PciBar.Count];
            PciLog.NoAddress(Log, device.Name, bar, resource.Size, device.Parent?.Name ?? "");
        }
        PciScan.Program(device);
        if (slot.Secondary is { } behind)
        {
            PciScan.ProgramBridge(device, behind);
            device.Enable();
            device.SetMaster(true);
        }
        // What it needs may have opened windows or taken numbers all the way up.
        for (var above = slot.Segment; above.BridgeSlot?.Device is { } bridge; above = above.Above!)
            PciScan.ProgramBridge(bridge, above);
    }

    private async ValueTask RescanAsync(PciSegment segment)
    {
        PciSlot[] slots;
        lock (_topology)
        {
            slots = [.. segment.Slots.Values];
        }
        foreach (var slot in slots)
        {
            bool isNew, isLost;
            lock (_topology)
            {
                var isFree = slot is { Device: null, IsScanning: false, IsEmpty: false, Leaves: 0 };
                isLost = isFree && !slot.Function.IsPresent;
                isNew = isFree && !isLost && segment.Parent is { State: DeviceState.Added };
                slot.IsScanning |= isNew;
            }
            // Lost while it had no device, so nobody was told.
            if (isLost)
                Empty(slot);
            if (isNew)
            {
                try
                {
                    await ScanAsync(slot);
                }
                catch (VirtbusException e)
                {
                    // One function's trouble must not keep the others away.
                    PciLog.RescanFailed(Log, $"{slot.Address}", e.Message);
                }
            }
            if (slot.Secondary is { } behind)
                await RescanAsync(behind);
        }
    }

    private void Lost(PciDevice device)
    {
        if (device.IsLost)
            return;
        PciLog.Lost(Log, device.Name);
        device.MarkLost();
        if (device.Fabric is not null)
            StartSurpriseRemoval(device);
    }

    private bool IsInTree(PciDevice device) => TryGetDevice(device.Name, out var there) && there == device;

    private void StartSurpriseRemoval(PciDevice device) =>
        FabricOrThrow().StartWork("surprise removal of " + device.Name, () => SurpriseRemoveAsync(device).AsTask());

    /// <summary>The devices behind a bridge, nearest first, with their virtual functions.</summary>
    private List<PciDevice> Below(PciDevice device)
    {
        var found = new List<PciDevice>();
        lock (_topology)
            Collect(device.Slot?.Secondary);
        return found;

        void Collect(PciSegment? segment)
        {
            foreach (var slot in segment?.Slots.Values ?? Enumerable.Empty<PciSlot>())
            {
                if (slot.Device is { } there)
                    found.AddRange([there, .. there.VirtualFunctions]);
                Collect(slot.Secondary);
            }
        }
    }

    private static TreeDirectory GroupDirectory(IGrouping<uint, PciDevice> group)
    {
        var path = $"/kernel/iommu_groups/{group.Key}";
        return new TreeDirectory($"{group.Key}", () =>
        [
            new TreeDirectory("devices", () => group.Select(static d => new TreeLink(d.Name, d.DevPath))),
            new TreeFile(path + "/type", group.First(), PciAttributes.GroupType),
        ]);
    }
}
