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
internal sealed partial class DiskFunctions : SingleFunctionProvider, IDisposable
{
    internal const string KindName = "disk";
    private const string VhostVdpa = "vhost-vdpa";

    private static readonly ProfileField<string> FilePath = ProfileFields.Text("file", "the absolute path of a file with the sectors", Path.IsPathRooted);
    private static readonly ProfileField<long> Memory = ProfileFields.Size("memory", 512);
    private static readonly ProfileField<long> Null = ProfileFields.Size("null", 512);
    private static readonly ProfileField<string> Format = ProfileFields.Choice("format", ["raw"]);
    private static readonly ProfileField<bool> Direct = ProfileFields.Flag("direct");
    private static readonly ProfileField<bool> ReadOnly = ProfileFields.Flag("readonly");
    private static readonly ProfileField<int> Queues = VdpaFields.Queues(64);
    private static readonly ProfileField[] Backings = [FilePath, Memory, Null];
    private static readonly ProfileField[] All = [.. Backings, Format, Direct, ReadOnly, Queues, VdpaFields.Serial, VdpaFields.Packed];

    private readonly Adapter _adapter;
    private readonly VdpaBus _bus;
    private readonly SocketExporter _exporter;
    private readonly ProvisioningContext _context;
    private readonly ProvisioningEngine _engine;
    // In the adapter, or opened for it already.
    private readonly ConcurrentDictionary<string, (IBlockBackend Medium, string Profile)> _media = new();
    private readonly ConcurrentDictionary<string, IBlockBackend> _opened = new();

    public DiskFunctions(Adapter adapter, SocketExporter exporter, ProvisioningContext context)
    {
        _adapter = adapter;
        _exporter = exporter;
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
        var backings = Backings.Where(profile.IsSet).ToList();
        if (backings.Count > 1)
            throw new VirtbusException(Errno.EINVAL, $"Function '{profile.Name}' has exactly one of {string.Join<ProfileField>(", ", Backings)}; this has {string.Join(", ", backings)}. Keep one.");
        if (backings.Count == 1 && !profile.IsSet(FilePath) && (profile.IsSet(Format) || profile.Get(Direct)))
            throw new VirtbusException(Errno.EINVAL, $"Function '{profile.Name}': only a file has a format and a page cache to pass by, and this disk is in none. Take format and direct away.");
    }

    public override IEnumerable<string> FindMissing(FunctionProfile profile) =>
        Backings.Any(profile.IsSet) ? [] : [$"one of {string.Join<ProfileField>(", ", Backings)}"];

    public override void Forget(string name)
    {
        TakeOut(name);
        if (_opened.TryRemove(name, out var medium))
            medium.Dispose();
    }

    public override string? DescribeStandard(FunctionProfile profile, ProfileField field)
    {
        if (field == VdpaFields.Serial)
            return VdpaFields.SerialOf(profile);
        return field == Format && profile.IsSet(FilePath) ? "raw" : base.DescribeStandard(profile, field);
    }

    /// <summary>Opens the medium of a disk that is going to be activated, so that what is wrong with it is told before anything is made.</summary>
    public void Open(FunctionProfile profile)
    {
        var medium = profile switch
        {
            _ when profile.TryGet(FilePath, out var path) => FileBackend.Open(path, profile.Get(ReadOnly), raw: profile.IsSet(Format), direct: profile.Get(Direct)),
            _ when profile.IsSet(Memory) => new MemoryBackend(profile.Get(Memory), readOnly: profile.Get(ReadOnly)),
            _ => (IBlockBackend)new NullBackend(profile.Get(Null), readOnly: profile.Get(ReadOnly)),
        };
        _opened[profile.Name] = medium;
        if (medium is FileBackend file)
            Watch(file, profile.Name);
    }

    /// <summary>Closes the media that are in the adapter no more; the adapter is gone.</summary>
    public void Dispose()
    {
        _engine.RemoveProvider(this);
        foreach (var medium in _media.Values.Select(static m => m.Medium).Concat(_opened.Values))
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
            TakeOut(profile.Name);
        var isNew = !_media.ContainsKey(profile.Name);
        try
        {
            if (isNew)
                PutIn(profile);
            return await AddAsync(management, profile);
        }
        catch when (isNew)
        {
            TakeOut(profile.Name);
            throw;
        }
    }

    protected override async ValueTask DeactivateAsync(FunctionProfile profile, Device device)
    {
        foreach (var management in _bus.Managements.Where(_adapter.IsAbove))
            await management.RemoveAsync((VdpaDevice)device);
        TakeOut(profile.Name);
    }

    private async ValueTask<Device> AddAsync(VdpaManagement management, FunctionProfile profile)
    {
        var device = await management.AddAsync(management.Profile(
            profile.Name, [new("medium", profile.Name), new("serial", VdpaFields.SerialOf(profile)), new("queues", $"{profile.Get(Queues)}"),
                new("packed", profile.Get(VdpaFields.Packed) ? "true" : "false")]));
        if (device.Driver is not null && _exporter.ErrorOf(device.Name) is null)
            return device;
        var error = _exporter.ErrorOf(device.Name)
            ?? new VirtbusException(Errno.ENODEV, $"Disk {device.Name} was made but no driver took it: {device.DeferredReason ?? "the log says why"}. Load vhost_vdpa and bind it.");
        await management.RemoveAsync(device);
        throw new VirtbusException(error.Errno, error.Message, error);
    }

    private void PutIn(FunctionProfile profile)
    {
        if (!_opened.ContainsKey(profile.Name))
            Open(profile);
        _opened.TryRemove(profile.Name, out var medium);
        _media[profile.Name] = (medium!, KeyOf(profile));
        _adapter.Engine.AttachMedium(profile.Name, medium!, new CacheModeFile(_context.RuntimeFolder, profile.Name));
    }

    private void TakeOut(string name)
    {
        if (!_media.TryRemove(name, out var there))
            return;
        _adapter.Engine.DetachMedium(name);
        there.Medium.Dispose();
    }

    // What the medium depends on.
    private static string KeyOf(FunctionProfile profile) =>
        string.Join('\n', profile.Values.Where(static v => v.Key != Queues.Name && v.Key != VdpaFields.Serial.Name && v.Key != VdpaFields.Packed.Name).Select(static v => $"{v.Key}={v.Value}"));

    private void Watch(FileBackend file, string disk)
    {
        var logger = _context.LoggerFactory.CreateLogger<DiskFunctions>();
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
