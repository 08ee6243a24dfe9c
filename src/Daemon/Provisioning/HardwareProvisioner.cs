using System.Collections.Concurrent;
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
using Virtbus.Subsystems.Vfio;
using Virtbus.Subsystems.Vhost;
using Virtbus.Transports;
using Virtbus.Transports.VfioUser;
using Virtbus.Transports.VhostUser;

namespace Virtbus.Daemon.Provisioning;

/// <summary>
/// Makes simulated adapters, the disks on them, and serial ports, and plugs in functions of the bus's providers. A disk is a wish that stays: whenever the vdpa part of its adapter is bound again, the
/// disk comes back, with its medium as it was.
/// </summary>
internal sealed partial class HardwareProvisioner : IProvisioner
{
    private const uint VIRTIO_ID_BLOCK = 2;
    private readonly ProvisioningContext _context;
    private readonly VdpaBus _vdpa;
    private readonly VhostSubsystem _vhost;
    private readonly SocketExporter _vhostExporter;
    private readonly PciBus _pci;
    private readonly ProvisioningEngine _engine;
    private readonly VfioSubsystem _vfio;
    private readonly SocketExporter _vfioExporter;
    private readonly ConcurrentDictionary<string, Adapter> _adapters = new();
    private readonly ConcurrentDictionary<string, SerialDevice> _serials = new();
    private readonly Stack<IAsyncDisposable> _order = new();
    // Those that no adapter has yet.
    private readonly Dictionary<string, IBlockBackend> _media = [];
    private volatile bool _closing;
    private bool _exporting;

    public HardwareProvisioner(ProvisioningContext context)
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
    }

    public IReadOnlyList<DeviceSocket> Sockets => [.. VhostSockets, .. VfioSockets, .. Consoles];

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
        from serial in _serials.Values
        orderby serial.Name
        select new DeviceSocket(serial.Name, "console", serial.Console, serial.Device, Address: serial.Device?.Name);

    public ValueTask StartAsync() => _context.Fabric.AddClassObserverAsync(_vfio.Class, _vfioExporter);

    public void OpenMedia(FabricManifest manifest)
    {
        var errors = new List<ManifestError>();
        foreach (var disk in manifest.Disks)
        {
            try
            {
                var medium = Open(disk);
                _media.Add(disk.Name, medium);
                if (medium is FileBackend file)
                    Watch(file, disk.Name);
            }
            catch (VirtbusException e)
            {
                errors.Add(new ManifestError(disk.Backing.At, disk.Backing.Path, e.Message));
            }
        }
        if (errors.Count > 0)
            throw new ManifestException(manifest.File, errors);
    }

    public async ValueTask<Device> ProvisionAdapterAsync(AdapterManifest adapter, CancellationToken cancellationToken)
    {
        var made = await Adapter.CreateAsync(_context.Fabric, adapter);
        _adapters[adapter.Name] = made;
        _order.Push(made);
        if (adapter.VirtualFunctions > 0)
        {
            // The core driver is loaded by its alias, beside us.
            await _context.Fabric.SettleAsync(cancellationToken);
            await made.EnableVirtualFunctionsAsync(adapter, _engine, cancellationToken);
        }
        return made.Device;
    }

    public async ValueTask ProvisionDiskAsync(DiskManifest disk, CancellationToken cancellationToken)
    {
        await StartExportAsync();
        // The adapter's drivers are loaded by its alias, beside us.
        await _context.Fabric.SettleAsync(cancellationToken);
        var adapter = _adapters[disk.Adapter];
        var management = _vdpa.Managements.FirstOrDefault(adapter.IsAbove)
            ?? throw new VirtbusException(Errno.ENODEV, $"Adapter {adapter.Device.Name} has no vdpa part with a driver. Add the modules of its core and of nic_vdpa to the modules folder.");
        _media.Remove(disk.Name, out var medium);
        adapter.Attach(disk.Name, medium!, new CacheModeFile(_context.RuntimeFolder, disk.Name));
        var profile = new VdpaProfile(disk.Name, VIRTIO_ID_BLOCK, disk.Name, disk.Serial, disk.Queues);
        var device = await management.AddAsync(profile);
        lock (adapter.Disks)
            adapter.Disks.Add(disk.Name, profile);
        CheckOffered(device);
    }

    public async ValueTask ProvisionSerialAsync(SerialManifest serial, CancellationToken cancellationToken)
    {
        await LoadDriverAsync(serial.Driver);
        var function = new SerialFunction(_context.Fabric.Time);
        SerialConsole console;
        try
        {
            var path = Path.Combine(_context.RuntimeFolder, serial.Name + ".console.sock");
            console = new SerialConsole(function.Port, path, _context.LoggerFactory.CreateLogger("Virtbus.Serial"), _context.Fabric.Time);
        }
        catch
        {
            function.Dispose();
            throw;
        }
        var made = new SerialDevice(serial.Name, function, console);
        _serials[serial.Name] = made;
        _order.Push(made);
        made.Device = await _pci.PlugAsync(function, serial.Name, device =>
        {
            // Before it is visible, so that no other driver has it first.
            _context.Fabric.SetDriverOverride(device, serial.Driver);
            return default;
        });
        CheckOffered(made.Device, serial.Driver);
    }

    public async ValueTask ProvisionFunctionAsync(FunctionManifest function, CancellationToken cancellationToken)
    {
        var driver = function.Driver?.Value;
        if (driver is not null)
            await LoadDriverAsync(driver);
        var device = await _pci.PlugAsync(function.Provider, function.Function, function.Name, driver, cancellationToken);
        if (driver is not null)
            CheckOffered(device, driver);
    }

    public void CheckOffered()
    {
        foreach (var device in _pci.Devices.OfType<PciDevice>().OrderBy(d => d.Name, StringComparer.Ordinal))
        {
            if (_vfioExporter.ErrorOf(device.Name) is { } error)
                throw new VirtbusException(error.Errno, $"Device {device.Name} can't be offered. {error.Message}", error);
        }
    }

    public void RevokeAll()
    {
        foreach (var device in _vfio.Class.Devices.OfType<VfioDevice>())
            device.Revoke();
    }

    public async ValueTask DisposeAsync()
    {
        _closing = true;
        await _pci.UnplugOpenedAsync();
        while (_order.TryPop(out var made))
            await made.DisposeAsync();
        foreach (var medium in _media.Values)
            medium.Dispose();
        if (_exporting)
            await _context.Fabric.RemoveClassObserverAsync(_vhost.Class, _vhostExporter);
        await _context.Fabric.RemoveClassObserverAsync(_vfio.Class, _vfioExporter);
    }

    // An override alone loads no module: it may name a driver that serves no id of its own accord.
    private async ValueTask LoadDriverAsync(string driver)
    {
        if (_pci.Drivers.All(d => d.Name != driver))
            await _context.Modules.LoadAsync(driver.Replace('-', '_'));
    }

    private void CheckOffered(PciDevice device, string driver)
    {
        if (_vfioExporter.ErrorOf(device.Name) is { } error)
            throw new VirtbusException(error.Errno, error.Message, error);
        if (device.Driver is null)
            throw new VirtbusException(Errno.ENODEV, $"Device {device.Name} was made but driver {driver} did not take it: {device.DeferredReason ?? "the log says why"}. Name another driver.");
    }

    private async ValueTask StartExportAsync()
    {
        if (_exporting)
            return;
        _exporting = true;
        await _context.Fabric.AddClassObserverAsync(_vhost.Class, _vhostExporter);
        // The vdpa bus has no aliases: which driver takes its devices is the user's choice, and this is the daemon's.
        await _context.Modules.LoadAsync("vhost_vdpa");
    }

    private void CheckOffered(VdpaDevice device)
    {
        if (_vhostExporter.ErrorOf(device.Name) is { } error)
            throw new VirtbusException(error.Errno, error.Message, error);
        if (device.Driver is null)
            throw new VirtbusException(Errno.ENODEV, $"Disk {device.Name} was made but no driver took it: {device.DeferredReason ?? "the log says why"}. Load vhost_vdpa and bind it.");
    }

    private void OnManagement(VdpaManagement management)
    {
        if (!_closing && _adapters.Values.FirstOrDefault(a => a.IsAbove(management)) is { } adapter)
            _context.Fabric.StartWork("disks of " + adapter.Device.Name, () => AddDisksAsync(adapter, management));
    }

    private static async Task AddDisksAsync(Adapter adapter, VdpaManagement management)
    {
        VdpaProfile[] wanted;
        lock (adapter.Disks)
            wanted = [.. adapter.Disks.Values];
        foreach (var profile in wanted)
            await management.AddAsync(profile);
    }

    private static IBlockBackend Open(DiskManifest disk) => disk.Backing.Value switch
    {
        DiskBacking.File file => FileBackend.Open(file.Path, disk.ReadOnly, raw: file.IsRaw, direct: file.IsDirect),
        DiskBacking.Memory memory => new MemoryBackend(memory.Bytes, readOnly: disk.ReadOnly),
        DiskBacking.Null nothing => new NullBackend(nothing.Bytes, readOnly: disk.ReadOnly),
        _ => throw new VirtbusException(Errno.EINVAL, $"Disk {disk.Name} has no medium. Give it file, memory or null."),
    };

    private void Watch(FileBackend file, string disk)
    {
        var logger = _context.LoggerFactory.CreateLogger<HardwareProvisioner>();
        if (file.WhyNoUring is { } why)
            WithoutUring(logger, disk, why);
        file.FlushFailed += (_, _) => WritesLost(logger, disk, file.Description, file.FailedFlush);
    }

    [LoggerMessage(630, LogLevel.Warning, "Disk {Disk} does without io_uring, by threads that wait, which is slower. {Reason}")]
    private static partial void WithoutUring(ILogger logger, string disk, string reason);

    [LoggerMessage(631, LogLevel.Error, "Disk {Disk}: the host could not write what was in the page cache of {File}: {Error}. Some of what was written since the last "
        + "flush is lost, and each flush fails from now on. Mend the host's storage, take the fabric down and up, and have the guest check its file system")]
    private static partial void WritesLost(ILogger logger, string disk, string file, Errno error);
}
