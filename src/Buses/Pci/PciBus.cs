using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using Virtbus.Core;
using Virtbus.Pci;
using Virtbus.Platform;
using static Virtbus.Pci.PciBridgeControl;
using static Virtbus.Pci.PciHeader;

namespace Virtbus.Buses.Pci;

/// <summary>
/// The PCI bus: host bridges, slots, routing ids, matching by id. Hardware is put in as an <see cref="IPciFunction"/>, whoever provides it; the
/// bus reads its ids, sizes its BARs, gives it addresses and adds a <see cref="PciDevice"/> to the tree.
/// </summary>
/// <remarks>
/// All members are safe to call from any thread. The hardware in a slot stays when its device is removed, and comes back by a rescan; it
/// leaves the slot when it is unplugged or lost. Functions are not disposed by the bus, who made them does that; except for those that it opened
/// itself at a provider. What is where is in <see cref="PciSlots"/>, how it comes and goes in <see cref="PciHotplug"/>, SR-IOV in
/// <see cref="PciVirtualFunctions"/>, functions that are opened by name in <see cref="PciOpenings"/>.
/// </remarks>
public sealed class PciBus : Bus
{
    private const int FirstIrq = 24;

    private readonly PciSlots _slots;
    private readonly PciHotplug _hotplug;
    private readonly PciVirtualFunctions _virtualFunctions;
    private readonly PciOpenings _openings;
    private readonly IdAllocator _groups = new();
    private readonly IdAllocator _irqs = new();
    private ILogger? _log;

    /// <summary>Makes the bus; register it with a fabric.</summary>
    public PciBus()
        : base("pci")
    {
        Faults = new FaultSink((device, work, exception, suppressed) => PciLog.FunctionFailed(Log, device, work, suppressed, exception));
        _slots = new PciSlots(this);
        _hotplug = new PciHotplug(this, _slots);
        _virtualFunctions = new PciVirtualFunctions(this, _slots);
        _openings = new PciOpenings(this, _slots, _hotplug);
    }

    /// <inheritdoc/>
    public override bool HasDriverOverride => true;

    /// <summary>The host bridges by domain.</summary>
    public IReadOnlyList<PciHostBridge> HostBridges => _slots.Hosts;

    /// <summary>Where functions can be had from by name, in the order in which they were added.</summary>
    public IReadOnlyList<IPciFunctionProvider> Providers => _openings.Providers;

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
        _slots.AddHost(host);
        return host;
    }

    /// <summary>Adds a root port: a bridge on a root bus, or on the bus of another bridge, with one hot-plug slot behind.</summary>
    /// <param name="parent">A host bridge, or a bridge.</param>
    /// <param name="device">Its device number; the lowest free one when null.</param>
    /// <exception cref="VirtbusException">As <see cref="AddFunctionAsync"/>.</exception>
    public ValueTask<PciDevice> AddPortAsync(Device parent, int? device = null) => _hotplug.AddPortAsync(parent, device);

    /// <summary>
    /// Puts a function into a slot of its own: the one of the first port that is empty; a port, and a host bridge, are made when there is none.
    /// </summary>
    /// <param name="function">The hardware.</param>
    /// <param name="label">What people call it, see <see cref="PciDevice.Label"/>.</param>
    /// <param name="prepare">Called before the device is added to the tree, so that a driver's probe finds it ready; for example to set its driver_override.</param>
    /// <param name="place">Where it was before and should be again; when that slot is taken, or no port leads there, as without.</param>
    /// <exception cref="VirtbusException">
    /// EEXIST: another slot has the label; else as <see cref="AddFunctionAsync"/>, or what <paramref name="prepare"/> throws.
    /// </exception>
    public ValueTask<PciDevice> PlugAsync(IPciFunction function, string? label = null, Func<PciDevice, ValueTask>? prepare = null, PciAddress? place = null) =>
        _hotplug.PlugAsync(function, label, prepare, isOwned: false, place);

    /// <summary>Adds a provider: its functions can be plugged in by name, also as functions of kind pci of the provisioning engine.</summary>
    /// <param name="provider">The provider.</param>
    /// <exception cref="VirtbusException">EEXIST: there is one of that name.</exception>
    public void AddProvider(IPciFunctionProvider provider) => _openings.Add(provider);

    /// <summary>Adds a provider of a module: it goes with the module, which is not unloaded while a function of it is plugged in or defined.</summary>
    /// <param name="provider">The provider.</param>
    /// <param name="module">The module that is loaded.</param>
    /// <exception cref="VirtbusException">EEXIST: there is one of that name; ENODEV: the module was taken out meanwhile.</exception>
    public void AddProvider(IPciFunctionProvider provider, ModuleContext module)
    {
        ArgumentNullException.ThrowIfNull(provider);
        ArgumentNullException.ThrowIfNull(module);
        module.Add(() => _openings.Add(provider), isEnd => _openings.Remove(provider, isEnd));
    }

    /// <summary>Takes a provider out again. One that is not there is no error.</summary>
    /// <param name="provider">The provider.</param>
    /// <exception cref="VirtbusException">EBUSY: a function of it is plugged in, is being opened or is defined; the message names it.</exception>
    public void RemoveProvider(IPciFunctionProvider provider) => _openings.Remove(provider, whateverUsesIt: false);

    /// <summary>
    /// Opens a function at a provider and puts it into a slot, as the other one does. It is the bus's then: it ends when it leaves the slot,
    /// unplugged, pulled out or lost.
    /// </summary>
    /// <param name="provider">One of <see cref="Providers"/>, by its name.</param>
    /// <param name="name">The provider's name for the function.</param>
    /// <param name="label">What people call it, see <see cref="PciDevice.Label"/>.</param>
    /// <param name="driver">The only driver that may take it; null for any.</param>
    /// <param name="cancellationToken">Ends the wait for the provider.</param>
    /// <exception cref="VirtbusException">
    /// ENOENT: there is no such provider; what the provider answers; else as the other one.
    /// </exception>
    public ValueTask<PciDevice> PlugAsync(string provider, string name, string? label = null, string? driver = null, CancellationToken cancellationToken = default) =>
        PlugAsync(provider, name, label, driver, null, cancellationToken);

    /// <summary>Unplugs all functions that the bus opened itself at providers; for the end of a fabric.</summary>
    /// <exception cref="VirtbusException">As <see cref="RemoveAsync"/>.</exception>
    public ValueTask UnplugOpenedAsync() => _openings.UnplugAllAsync();

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
    public ValueTask<PciDevice> AddFunctionAsync(Device parent, IPciFunction function, int? device = null, int functionNumber = 0) =>
        _hotplug.AddFunctionAsync(parent, function, device, functionNumber);

    /// <summary>
    /// Takes a device out of the tree in order: its virtual functions and what is below it first, then its driver is unbound. The hardware stays in its
    /// slot and comes back by a rescan. Linux: <c>remove</c>.
    /// </summary>
    /// <param name="device">The device.</param>
    /// <exception cref="VirtbusException">EDEADLK: called from a callback that the removal would wait for.</exception>
    public ValueTask RemoveAsync(PciDevice device) => _hotplug.RemoveAsync(device);

    /// <summary>As <see cref="RemoveAsync"/>, and takes the hardware (and all behind a bridge) out of its slot. Its maker may dispose it then.</summary>
    /// <param name="device">The device; not a virtual function.</param>
    /// <exception cref="VirtbusException">
    /// EINVAL: a virtual function is not plugged by itself; ENODEV: it was removed, and another device has come for its hardware; else as <see cref="RemoveAsync"/>.
    /// </exception>
    public ValueTask UnplugAsync(PciDevice device) => _hotplug.UnplugAsync(device);

    /// <summary>
    /// As <see cref="UnplugAsync(PciDevice)"/>, with the device that stands for the hardware now: by a remove and a rescan that may be another one than
    /// the one that it was given first. Without effect when the hardware is in no slot.
    /// </summary>
    /// <param name="function">The hardware; not a virtual function.</param>
    /// <exception cref="VirtbusException">As <see cref="RemoveAsync"/>.</exception>
    public ValueTask UnplugAsync(IPciFunction function) => _hotplug.UnplugAsync(function);

    /// <summary>
    /// The hardware was pulled out: from now on nothing of it answers; the devices are taken out, whatever is going on with them. Functions that tell
    /// of their loss themselves come here too.
    /// </summary>
    /// <param name="device">The device; what is below a bridge goes with it.</param>
    public ValueTask SurpriseRemoveAsync(PciDevice device) => _hotplug.SurpriseRemoveAsync(device);

    /// <summary>Looks through all buses for hardware without a device and adds it; what was removed comes back so. Linux: <c>rescan</c>.</summary>
    public async ValueTask RescanAsync()
    {
        foreach (var host in HostBridges)
            await _hotplug.RescanAsync(host.Root);
    }

    /// <summary>As <see cref="RescanAsync()"/>, for the bus that a device is on and for all below it.</summary>
    /// <param name="device">The device.</param>
    public ValueTask RescanAsync(PciDevice device)
    {
        ArgumentNullException.ThrowIfNull(device);
        return _hotplug.RescanAsync(device.Segment);
    }

    /// <summary>The device at an address.</summary>
    /// <param name="address">The address.</param>
    public PciDevice? Find(PciAddress address) => TryGetDevice(address.ToString(), out var device) ? (PciDevice)device : null;

    /// <summary>The device that stands for hardware now; null when it has none, or is in no slot. Not for virtual functions.</summary>
    /// <param name="function">The hardware.</param>
    public PciDevice? Find(IPciFunction function) => _slots.Find(s => s.Function == function, out var device) is null ? null : device;

    /// <inheritdoc/>
    public override DeviceId? Match(IDeviceIdentity device, Driver driver) =>
        device is IPciIdentity identity && driver is PciDriver pci ? pci.Match(identity) : null;

    /// <inheritdoc/>
    protected override DeviceId? MatchOverride(IDeviceIdentity device, Driver driver) =>
        device is IPciIdentity identity && driver is PciDriver pci ? pci.MatchOverride(identity) : null;

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
                await _virtualFunctions.RemoveAsync(pci);
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

    internal ValueTask<PciDevice> PlugAsync(string provider, string name, string? label, string? driver, PciAddress? place, CancellationToken cancellationToken) =>
        _openings.PlugAsync(provider, name, label, driver, place, cancellationToken);

    internal PciSlots Slots => _slots;

    internal PciHotplug Hotplug => _hotplug;

    internal PciVirtualFunctions VirtualFunctions => _virtualFunctions;

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
            device.Hardware.Reset();
        }
    }

    /// <summary>Somebody set a bridge's Secondary Bus Reset: everything behind it is reset.</summary>
    internal void ResetBehind(PciDevice bridge)
    {
        foreach (var device in _slots.Below(bridge))
            device.Hardware.Reset();
    }

    internal static ValueTask DeleteVirtualAsync(PciDevice function) => DeleteDependentAsync(function);

    internal static void ThrowIfCallerWaits(PciDevice device) => ThrowIfCallerDependsOn(device);

    internal Fabric FabricOrThrow() =>
        Fabric ?? throw new VirtbusException(Errno.EINVAL, "The PCI bus is not registered with a fabric. Register it first.");

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
