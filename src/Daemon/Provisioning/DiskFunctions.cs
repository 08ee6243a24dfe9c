using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;
using Virtbus.Block;
using Virtbus.Buses.Vdpa;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Provisioning;
using Virtbus.Transports;

namespace Virtbus.Daemon.Provisioning;

/// <summary>
/// The disks of an adapter, as functions: the medium is opened and put in, and the adapter's vdpa part makes a vDPA device of it. Whenever that part is
/// bound again the disk comes back, with its medium as it was.
/// </summary>
internal sealed class DiskFunctions : SingleFunctionProvider, IAsyncDisposable
{
    internal const string KindName = "disk";
    private const string VhostVdpa = "vhost-vdpa";

    private static readonly ProfileField<int> Queues = VdpaFields.Queues(64);
    private static readonly ProfileField[] All = [.. Medium.Fields, Queues, VdpaFields.Serial, VdpaFields.Packed, .. NbdExports.Fields];

    private readonly Adapter _adapter;
    private readonly VdpaBus _bus;
    private readonly SocketExporter _exporter;
    private readonly NbdExports _nbd;
    private readonly ProvisioningContext _context;
    private readonly ProvisioningEngine _engine;
    // In the adapter, or opened for it already.
    private readonly ConcurrentDictionary<string, (IBlockBackend Medium, string Profile)> _media = new();
    private readonly ConcurrentDictionary<string, IBlockBackend> _opened = new();

    public DiskFunctions(Adapter adapter, SocketExporter exporter, NbdExports nbd, ProvisioningContext context)
    {
        _adapter = adapter;
        _exporter = exporter;
        _nbd = nbd;
        _context = context;
        _bus = context.Fabric.GetBus<VdpaBus>();
        _engine = ProvisioningEngine.Of(context.Fabric);
        _engine.AddProvider(this);
    }

    public override string Kind => KindName;

    public override IReadOnlyList<string> Parents => [_adapter.Name, _adapter.Device.Name];

    public override IReadOnlyList<ProfileField> Fields => All;

    public override bool Returns => true;

    public override void Check(FunctionProfile profile)
    {
        Medium.Check(profile);
        NbdExports.Check(profile);
    }

    public override IEnumerable<string> FindMissing(FunctionProfile profile) => Medium.FindMissing(profile);

    public override void Forget(string name)
    {
        // Mostly there is nothing left; else who has it open by NBD leaves first.
        _ = TakeOutAsync(name).AsTask();
        if (_opened.TryRemove(name, out var medium))
            medium.Dispose();
    }

    public override ValueTask ChangeAsync(FunctionProfile before, FunctionProfile after, Device device) =>
        _media.TryGetValue(after.Name, out var there) ? _nbd.ChangeAsync(after, there.Medium) : default;

    public override string? DescribeStandard(FunctionProfile profile, ProfileField field)
    {
        if (field == VdpaFields.Serial)
            return VdpaFields.SerialOf(profile);
        return NbdExports.DescribeStandard(profile, field) ?? Medium.DescribeStandard(profile, field) ?? base.DescribeStandard(profile, field);
    }

    /// <summary>Opens the medium of a disk that is going to be activated, so that what is wrong with it is told before anything is made.</summary>
    public void Open(FunctionProfile profile) => _opened[profile.Name] = Medium.Open(profile, _context.LoggerFactory.CreateLogger<DiskFunctions>());

    /// <summary>Closes the media that are in the adapter no more; the adapter is gone.</summary>
    public async ValueTask DisposeAsync()
    {
        _engine.RemoveProvider(this);
        foreach (var (name, there) in _media)
        {
            await _nbd.CloseAsync(name);
            there.Medium.Dispose();
        }

        foreach (var medium in _opened.Values)
            medium.Dispose();
    }

    protected override async ValueTask<Device> ActivateAsync(FunctionProfile profile, CancellationToken cancellationToken)
    {
        var management = _bus.Managements.FirstOrDefault(_adapter.IsAbove)
            ?? throw new VirtbusException(Errno.ENODEV, $"Adapter {_adapter.Device.Name} has no vdpa part with a driver. Add the modules of its core and of nic_vdpa to the modules folder.");
        // The vdpa bus has no aliases: which driver takes its devices is the user's choice, and this is the daemon's.
        await _engine.LoadDriverAsync(_bus, VhostVdpa);
        // What stayed in the adapter while its vdpa part was unbound serves the disk that it was put in for, and no other.
        if (_media.TryGetValue(profile.Name, out var there) && there.Profile != KeyOf(profile))
            await TakeOutAsync(profile.Name);
        var isNew = !_media.ContainsKey(profile.Name);
        try
        {
            if (isNew)
                PutIn(profile);
            return await AddAsync(management, profile, cancellationToken);
        }
        catch when (isNew)
        {
            await TakeOutAsync(profile.Name);
            throw;
        }
    }

    protected override async ValueTask DeactivateAsync(FunctionProfile profile, Device device)
    {
        foreach (var management in _bus.Managements.Where(_adapter.IsAbove))
            await management.RemoveAsync((VdpaDevice)device);
        await TakeOutAsync(profile.Name);
    }

    private async ValueTask<Device> AddAsync(VdpaManagement management, FunctionProfile profile, CancellationToken cancellationToken)
    {
        var device = await management.AddAsync(management.Profile(
            profile.Name, [new("medium", profile.Name), new("serial", VdpaFields.SerialOf(profile)), new("queues", $"{profile.Get(Queues)}"),
                new("packed", profile.Get(VdpaFields.Packed) ? "true" : "false")]));
        try
        {
            // Its management is told of while the part's probe goes on.
            await _context.Fabric.AwaitAttemptAsync(device, cancellationToken);
            if (_exporter.ErrorOf(device.Name) is { } error)
                throw new VirtbusException(error.Errno, error.Message, error);
            if (device.Driver is null)
                throw new VirtbusException(Errno.ENODEV, $"Disk {device.Name} was made but no driver took it: {device.DeferredReason ?? "the log says why"}. Load vhost_vdpa and bind it.");
            await _nbd.OpenAsync(profile, _media[profile.Name].Medium);
            return device;
        }
        catch
        {
            await management.RemoveAsync(device);
            throw;
        }
    }

    private void PutIn(FunctionProfile profile)
    {
        if (!_opened.ContainsKey(profile.Name))
            Open(profile);
        _opened.TryRemove(profile.Name, out var medium);
        _media[profile.Name] = (medium!, KeyOf(profile));
        _adapter.Engine.AttachMedium(profile.Name, medium!, new CacheModeFile(_context.RuntimeFolder, profile.Name));
    }

    private async ValueTask TakeOutAsync(string name)
    {
        if (!_media.TryRemove(name, out var there))
            return;
        await _nbd.CloseAsync(name);
        _adapter.Engine.DetachMedium(name);
        there.Medium.Dispose();
    }

    // What the medium depends on.
    private static string KeyOf(FunctionProfile profile) =>
        string.Join('\n', profile.Values.Where(static v => Medium.Fields.Any(f => f.Name == v.Key)).Select(static v => $"{v.Key}={v.Value}"));
}
