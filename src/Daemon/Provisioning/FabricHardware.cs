using Microsoft.Extensions.Logging;
using Virtbus.Block;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Daemon.Manifest;
using Virtbus.Hardware;
using Virtbus.Hardware.Serial;
using Virtbus.Platform;
using Virtbus.Provisioning;
using Virtbus.Remote.Pci.HostVfio;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Subsystems.Net;
using Virtbus.Subsystems.Tty;
using Virtbus.Subsystems.Vfio;
using Virtbus.Subsystems.Vhost;
using Virtbus.Transports;
using Virtbus.Transports.VfioUser;
using Virtbus.Transports.VhostUser;

namespace Virtbus.Daemon.Provisioning;

/// <summary>
/// The simulated hardware of a fabric: its adapters, and what makes disks, serial ports and virtio functions; the providers of PCI functions; and the transports that offer
/// devices on sockets.
/// </summary>
internal sealed class FabricHardware : IAsyncDisposable
{
    private readonly ProvisioningContext _context;
    private readonly VdpaBus _vdpa;
    private readonly VhostSubsystem _vhost;
    private readonly SocketExporter _vhostExporter;
    private readonly PciBus _pci;
    private readonly ProvisioningEngine _engine;
    private readonly VfioSubsystem _vfio;
    private readonly SocketExporter _vfioExporter;
    private readonly SerialFunctions _serials;
    private readonly VirtioFunctions _virtio;
    private readonly DeclaredSwitches _switches;
    private readonly NbdExports _nbd;
    private readonly NetSubsystem _net;
    private readonly TtySubsystem _tty;
    private readonly TtyConsoles _ttys;
    // In the order in which they were made; replaced as a whole.
    private volatile (Adapter Adapter, DiskFunctions Disks)[] _adapters = [];
    private volatile AdapterManifest? _making;
    private volatile bool _closing;

    public FabricHardware(ProvisioningContext context)
    {
        _context = context;
        _vdpa = context.Fabric.RegisterBus(new VdpaBus());
        _vhost = VhostSubsystem.Of(context.Fabric);
        _vhostExporter = VhostUserServer.MakeExporter(context.RuntimeFolder, context.LoggerFactory.CreateLogger("Virtbus.VhostUser"), context.Fabric.Time);
        _pci = context.Fabric.GetBus<PciBus>();
        _vfio = VfioSubsystem.Of(context.Fabric);
        _vfioExporter = VfioUserServer.MakeExporter(context.RuntimeFolder, context.LoggerFactory.CreateLogger("Virtbus.VfioUser"), context.Fabric.Time);
        _engine = ProvisioningEngine.Of(context.Fabric);
        _engine.Modules = context.Modules;
        _engine.WhyNotBound = device => _vfioExporter.ErrorOf(device.Name) ?? _vhostExporter.ErrorOf(device.Name);
        _vdpa.AddManagementListener(OnManagement);
        _pci.AddProvider(new SimulatedFunctionProvider());
        _pci.AddProvider(new VfioUserFunctionProvider());
        _pci.AddProvider(new HostFunctionProvider(context.LoggerFactory));
        _nbd = new NbdExports(context);
        _serials = new SerialFunctions(context);
        _virtio = new VirtioFunctions(_nbd, context);
        _switches = new DeclaredSwitches(context.Switches);
        context.Fabric.Tree.AddKernelDirectory(SwitchTree.Make(context.Switches));
        _net = NetSubsystem.Of(context.Fabric);
        _tty = TtySubsystem.Of(context.Fabric);
        _ttys = new TtyConsoles(context);
        Joins = new InterfaceJoins(context, NetworkOf, ListLinks);
    }

    /// <summary>The virtio functions.</summary>
    public VirtioFunctions Virtio => _virtio;

    /// <summary>The network interfaces that are joined to switches and TAP devices.</summary>
    public InterfaceJoins Joins { get; }

    public IReadOnlyList<DeviceSocket> Sockets => [.. VhostSockets, .. VfioSockets, .. Consoles, .. _ttys.Sockets, .. _nbd.Sockets];

    private IEnumerable<DeviceSocket> VhostSockets =>
        from device in _vhost.Class.Devices.OfType<VhostDevice>()
        let endpoint = device.Endpoint
        where endpoint is not null
        select new DeviceSocket(device.Label, "vhost-user-blk", endpoint, device.Parent, device);

    private IEnumerable<DeviceSocket> VfioSockets =>
        from device in _vfio.Class.Devices.OfType<VfioDevice>()
        let endpoint = device.Endpoint
        where endpoint is not null
        orderby device.Label
        select new DeviceSocket((device.Parent as PciDevice)?.Label ?? device.Label, "vfio-user", endpoint, device.Parent, device, device.Label);

    private IEnumerable<DeviceSocket> Consoles =>
        from part in _serials.Parts.Concat(_virtio.Parts)
        let console = part.Console
        where console is not null
        select new DeviceSocket(part.Name, "console", console, part.Device, Address: part.Device?.Name);

    /// <summary>Makes ready to offer devices on sockets; called once, before anything is made.</summary>
    public async ValueTask StartAsync()
    {
        await _context.Fabric.AddClassObserverAsync(_vfio.Class, _vfioExporter);
        await _context.Fabric.AddClassObserverAsync(_vhost.Class, _vhostExporter);
        await _context.Fabric.AddClassObserverAsync(_net.Class, Joins);
        await _context.Fabric.AddClassObserverAsync(_tty.Class, _ttys);
    }

    /// <summary>The switches that are there in any case.</summary>
    public DeclaredSwitches Switches => _switches;

    /// <summary>Makes a switch.</summary>
    /// <exception cref="VirtbusException">What the host says of its TAP device.</exception>
    public ValueTask AddSwitchAsync(SwitchManifest manifest)
    {
        _switches.Add(manifest);
        return default;
    }

    /// <summary>The adapters, as they were made.</summary>
    public IEnumerable<AdapterManifest> Adapters => _adapters.Select(static a => a.Adapter.Manifest);

    /// <summary>Makes an adapter. Its drivers may still be probing when the call returns.</summary>
    /// <returns>The adapter's device.</returns>
    /// <exception cref="VirtbusException">The adapter can't be made.</exception>
    public async ValueTask<Device> AddAdapterAsync(AdapterManifest adapter)
    {
        _making = adapter;
        Adapter? made = null;
        try
        {
            made = await Adapter.CreateAsync(_context.Fabric, adapter, _context.Switches);
            _adapters = [.. _adapters, (made, new DiskFunctions(made, _vhostExporter, _nbd, _context))];
            return made.Device;
        }
        catch
        {
            if (made is not null)
                await made.DisposeAsync();
            throw;
        }
        finally
        {
            _making = null;
        }
    }

    /// <summary>Takes an adapter away with all that is on it; waits for who has some of it open.</summary>
    public async ValueTask RemoveAdapterAsync(string name)
    {
        var (adapter, disks) = _adapters.First(a => a.Adapter.Name == name);
        // One that can't go stays known.
        await adapter.DisposeAsync();
        _adapters = [.. _adapters.Where(a => a.Adapter != adapter)];
        await disks.DisposeAsync();
    }

    /// <summary>The bus that adapters, serial ports and functions are on.</summary>
    public Bus Bus => _pci;

    /// <summary>The device of an adapter; null when there is none of that name.</summary>
    public Device? FindDevice(string adapter) => _adapters.FirstOrDefault(a => a.Adapter.Name == adapter).Adapter?.Device;

    /// <summary>The device of an adapter.</summary>
    public Device DeviceOf(string adapter) => _adapters.First(a => a.Adapter.Name == adapter).Adapter.Device;

    /// <summary>Opens the medium of a disk that is defined, before it is activated.</summary>
    /// <exception cref="VirtbusException">It can't be opened.</exception>
    public void OpenMedium(ProvisionedFunction disk) => _adapters.First(a => a.Adapter.Name == disk.Parent).Disks.Open(disk.Profile!);

    /// <summary>Makes sure that the PCI bus has the provider of a function.</summary>
    /// <exception cref="VirtbusException">ENOENT: it has not.</exception>
    public void RequireProvider(ManifestFunction function)
    {
        var provider = function.Values[0].Key;
        var names = _pci.Providers.Select(static p => p.Name).ToList();
        if (!names.Contains(provider))
        {
            throw new VirtbusException(
                Errno.ENOENT, $"'{provider}' is no provider of the PCI bus.{Suggestion.For(provider, names)} It has {string.Join(", ", names)}. Name the module that brings it under 'modules'.") { Field = "provider" };
        }
    }

    /// <summary>The module that brought the provider of a PCI function; null for those that are always there.</summary>
    public string? ModuleOf(ProvisionedFunction function) =>
        _pci.Providers.FirstOrDefault(p => function.Values.ContainsKey(p.Name))?.GetType().Assembly.GetName().Name is { } name && _context.Modules.Loaded.Any(m => m.Info.Name == name) ? name : null;

    /// <summary>Refuses a fabric with a device that could not be offered on its socket, though a driver was to do so.</summary>
    /// <exception cref="VirtbusException">As the listener says it of the socket's path.</exception>
    public void CheckOffered()
    {
        foreach (var device in _pci.Devices.OfType<PciDevice>().OrderBy(d => d.Name, StringComparer.Ordinal))
        {
            if (_vfioExporter.ErrorOf(device.Name) is { } error)
                throw new VirtbusException(error.Errno, $"Device {device.Name} can't be offered. {error.Message}", error);
        }
    }

    /// <summary>Takes all devices away from the virtual machines and programs that have them open: at the end nobody waits for them.</summary>
    public void RevokeAll()
    {
        foreach (var device in _vfio.Class.Devices.OfType<VfioDevice>())
            device.Revoke();
    }

    public async ValueTask DisposeAsync()
    {
        _closing = true;
        await Joins.ClearAsync();
        await _pci.UnplugOpenedAsync();
        await _virtio.DisposeAsync();
        await _serials.DisposeAsync();
        while (_adapters is [.., var (last, _)])
            await RemoveAdapterAsync(last.Name);
        await _nbd.DisposeAsync();
        _switches.Dispose();
        await _context.Fabric.RemoveClassObserverAsync(_tty.Class, _ttys);
        await _context.Fabric.RemoveClassObserverAsync(_net.Class, Joins);
        await _context.Fabric.RemoveClassObserverAsync(_vhost.Class, _vhostExporter);
        await _context.Fabric.RemoveClassObserverAsync(_vfio.Class, _vfioExporter);
    }

    // Interfaces of one that is being made may be there before it is.
    private IEnumerable<AdapterManifest> AllAdapters => _making is { } one ? Adapters.Append(one) : Adapters;

    private static string AdapterNode(string name) => "adapter " + name;

    // What the hardware of an interface is on, if that is of this fabric.
    private string? NetworkOf(NetDevice device)
    {
        Device? at = device.Parent;
        while (at is not (null or PciDevice))
            at = at.Parent;
        if (at is not PciDevice pci)
            return null;
        if ((pci.PhysicalFunction ?? pci).Label is { } label && AllAdapters.Any(a => a.Name == label))
            return AdapterNode(label);
        return _virtio.SwitchOf(pci) is { } place ? InterfaceJoins.SwitchNode(place) : null;
    }

    private IEnumerable<(string, string)> ListLinks()
    {
        foreach (var one in _switches.All)
        {
            if (one.Tap is { } tap)
                yield return (InterfaceJoins.SwitchNode(one.Name), InterfaceJoins.TapNode(tap));
        }

        foreach (var adapter in AllAdapters)
        {
            if (adapter.Tap is { } tap)
                yield return (AdapterNode(adapter.Name), InterfaceJoins.TapNode(tap));
            if (adapter.Switch is { } place)
                yield return (AdapterNode(adapter.Name), InterfaceJoins.SwitchNode(place));
        }
    }

    private void OnManagement(VdpaManagement management)
    {
        if (!_closing && _adapters.FirstOrDefault(a => a.Adapter.IsAbove(management)).Disks is { } disks)
            _engine.Return(disks);
    }
}
