using System.Diagnostics;
using Microsoft.Extensions.Logging;
using Virtbus.Buses.Auxiliary;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Vdpa;
using Virtbus.Buses.Virtio;
using Virtbus.Core;
using Virtbus.Daemon.Api;
using Virtbus.Daemon.Apply;
using Virtbus.Daemon.Manifest;
using Virtbus.Daemon.Provisioning;
using Virtbus.Memory;
using Virtbus.Platform;
using Virtbus.Provisioning;
using Virtbus.Subsystems;
using Virtbus.Subsystems.Vfio;
using Virtbus.Transports.Fuse;

namespace Virtbus.Daemon;

/// <summary>A running fabric: made from a manifest, controlled through a socket, taken down in order.</summary>
internal sealed partial class FabricDaemon
{
    private static readonly TimeSpan TimeToStop = TimeSpan.FromMilliseconds(1800);
    private static readonly TimeSpan TimeToReturn = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan TimeToSettle = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan TimeToSettleAWrite = TimeSpan.FromSeconds(1);
    // Folders of Linux's tree without which a tool ends with an error, or does not look any further: lsblk, nvme, libvirt, mdevctl, ibv_devices, DPDK, lspci;
    // and the host's parts that 'mount --over-sys' shows.
    private static readonly string[] LookedFor =
    [
        "block", "bus/mdev/devices", "bus/mdev/drivers", "bus/pci/slots", "class/block", "class/infiniband", "class/infiniband_verbs", "class/mdev_bus", "class/nvme",
        "class/nvme-subsystem", "class/pci_bus", "dev/block", "dev/char", "devices/system", "devices/virtual", "firmware", "fs", "kernel/mm", "kernel/security", "module/vfio",
        "module/vfio_iommu_type1",
    ];
    private readonly FabricDaemonOptions _options;
    private readonly ILogger _log;
    private readonly RuntimeLock _lock;
    private readonly LockHolder _holder;
    private readonly ModuleLoader _loader;
    private readonly FabricHardware _hardware;
    private readonly DeviceGroups _groups;
    private readonly CancellationTokenSource _stop = new();
    private readonly TaskCompletionSource _stopRequested = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource<ShutdownAnswer> _takenDown = new(TaskCreationOptions.RunContinuationsAsynchronously);
    // Of the process, and of that what all its peers together may have: at the latter they are refused, long before the former is used up.
    private readonly Budget[] _budgets =
    [
        Budget.Descriptors,
        new("peer descriptors", () => PeerDescriptors.TotalOpen, () => PeerDescriptors.Ceiling),
        Budget.Mappings,
        new("peer mappings", () => MappingBudget.Process.Mappings, () => MappingBudget.Process.MaxMappings),
        new("peer address MiB", () => (long)(MappingBudget.Process.Bytes >> 20), () => (long)(MappingBudget.Process.MaxBytes >> 20)),
        Budget.Threads,
    ];
    private readonly long _start;
    private readonly ProvisioningEngine _engine;
    private readonly SemaphoreSlim _applying = new(1, 1);
    private FabricManifest _manifest;
    private ControlServer? _server;
    private FuseMounts? _mounts;

    private FabricDaemon(FabricDaemonOptions options, LockHolder holder, RuntimeLock held)
    {
        _options = options;
        _log = options.LoggerFactory.CreateLogger("Virtbus.Daemon");
        _start = options.Time.GetTimestamp();
        (_holder, _lock) = (holder, held);
        Fabric = new Fabric(new FabricOptions { LoggerFactory = options.LoggerFactory, Time = options.Time });
        var auxiliary = Fabric.RegisterBus(new AuxiliaryBus());
        Fabric.RegisterBus(new PciBus());
        Fabric.RegisterBus(new VirtioBus());
        try
        {
            _loader = new ModuleLoader(Fabric, [options.ModulesFolder, .. options.Manifest.Modules.Folders.Select(static f => f.Value)]);
        }
        catch (VirtbusException e) when (options.Manifest.Modules.Folders.Any(f => e.Message.Contains(f.Value, StringComparison.Ordinal)))
        {
            var given = options.Manifest.Modules.Folders.First(f => e.Message.Contains(f.Value, StringComparison.Ordinal));
            throw new ManifestException(options.Manifest.File, [new ManifestError(given.At, given.Path, e.Message)]);
        }
        _hardware = new FabricHardware(new ProvisioningContext(Fabric, _loader, options.Runtime.Path, options.LoggerFactory));
        _groups = new DeviceGroups(Fabric, auxiliary);
        _engine = ProvisioningEngine.Of(Fabric);
        _manifest = options.Manifest;
        View = new FabricView(Fabric, _loader);
        AddToTree();
    }

    /// <summary>The fabric.</summary>
    public Fabric Fabric { get; }

    /// <summary>What the control interface says of the fabric.</summary>
    public FabricView View { get; }

    /// <summary>How far the daemon is.</summary>
    public DaemonState State { get; private set; } = DaemonState.Starting;

    /// <summary>Ends when someone asks the daemon to end.</summary>
    public Task StopRequested => _stopRequested.Task;

    /// <summary>Ends when the fabric has been taken down, before the control socket closes.</summary>
    public Task<ShutdownAnswer> TakenDown => _takenDown.Task;

    /// <summary>Makes the process outlive what its threads and its writes meet. Once, before a fabric.</summary>
    /// <param name="loggers">Makes the logger that hears of threads that failed.</param>
    public static void PrepareProcess(ILoggerFactory loggers)
    {
        HostSignals.IgnoreFileSizeLimit();
        var log = loggers.CreateLogger("Virtbus.Daemon");
        ServiceThread.Unhandled = (name, exception) => DaemonLog.ThreadFailed(log, name, exception);
    }

    /// <summary>Brings a fabric up. Returns when all that the manifest names is there and every probe has ended.</summary>
    /// <param name="options">What the daemon is made with.</param>
    /// <param name="cancellationToken">Gives up; what is there by then is taken down.</param>
    /// <exception cref="VirtbusException">The folder is held, or the manifest names something that can't be made; nothing is left behind.</exception>
    public static async Task<FabricDaemon> StartAsync(FabricDaemonOptions options, CancellationToken cancellationToken)
    {
        var holder = new LockHolder(Environment.ProcessId, options.Time.GetUtcNow(), options.ManifestName);
        var held = options.Runtime.Acquire(holder);
        FabricDaemon daemon;
        try
        {
            daemon = new FabricDaemon(options, holder, held);
        }
        catch
        {
            held.Dispose();
            throw;
        }
        using var given = cancellationToken.Register(daemon.RequestShutdown);
        try
        {
            // The server takes a good part of the start; the manifest is applied meanwhile.
            var server = Task.Run(() => ControlServer.StartAsync(daemon, options.LoggerFactory, daemon._lock.Control), CancellationToken.None);
            try
            {
                await daemon.ApplyAsync(daemon._stop.Token);
            }
            finally
            {
                daemon._server = await server;
            }
            daemon._mounts = FuseMounts.Listen(daemon.Fabric, options.Runtime.MountSocket, cancel => daemon.SettleAsync(TimeToSettleAWrite, cancel));
            daemon.State = DaemonState.Ready;
            DaemonLog.Started(daemon._log, options.ManifestName, Version);
            return daemon;
        }
        catch
        {
            await daemon.StopAsync();
            throw;
        }
    }

    /// <summary>Asks the daemon to end; whoever runs it then calls <see cref="StopAsync"/>.</summary>
    public void RequestShutdown()
    {
        _stop.Cancel();
        _stopRequested.TrySetResult();
    }

    /// <summary>
    /// Takes all down in order: drivers are shut down, devices go newest first, modules are unloaded, sockets close. Takes no more than 2 s
    /// of work, or without any; what hangs is left to the end of the process.
    /// </summary>
    /// <returns>True when everything went in time.</returns>
    public async Task<bool> StopAsync()
    {
        RequestShutdown();
        State = DaemonState.Stopping;
        var start = Stopwatch.GetTimestamp();
        var step = "";
        var clean = true;
        try
        {
            await WorkPatience.WaitAsync(Task.Run(TakeDownAsync), TimeToStop);
        }
        catch (TimeoutException)
        {
            clean = false;
            DaemonLog.StopHangs(_log, Volatile.Read(ref step), (long)Stopwatch.GetElapsedTime(start).TotalMilliseconds);
        }
        catch (Exception e)
        {
            clean = false;
            DaemonLog.StopFailed(_log, Volatile.Read(ref step), e);
        }
        _takenDown.SetResult(new ShutdownAnswer(Environment.ProcessId, clean, (long)Stopwatch.GetElapsedTime(start).TotalMilliseconds));
        if (_server is not null)
            await _server.StopAsync(TimeToStop - Stopwatch.GetElapsedTime(start));
        _lock.Dispose();
        return clean;

        async Task TakeDownAsync()
        {
            // First, since an unbind may be waiting for one of them, and all that follows for that unbind.
            Step("users let go");
            _engine.Close();
            _hardware.RevokeAll();
            if (_mounts is not null)
                await _mounts.DisposeAsync();
            // A manifest that is being applied ends with its step.
            await _applying.WaitAsync();
            Step("drivers shut down");
            _loader.Dispose();
            await Fabric.ShutdownAsync();
            Step("devices removed");
            await _groups.DisposeAsync();
            await _hardware.DisposeAsync();
            foreach (var device in Fabric.RootDevices.Reverse())
                await Fabric.DeleteAsync(device);
            Step("modules unloaded");
            await _loader.UnloadAllAsync();
            await Fabric.SettleAsync();
        }

        void Step(string text)
        {
            Volatile.Write(ref step, text);
            _options.Progress(text);
        }
    }

    /// <summary>Loads a module by name.</summary>
    /// <param name="name">The module.</param>
    public async Task<ModuleAnswer> LoadModuleAsync(string name)
    {
        await _loader.LoadAsync(name);
        return View.Modules().First(m => m.Name == name || m.Name == ModuleName.Of(name));
    }

    /// <summary>Unloads a module by name.</summary>
    /// <param name="name">The module.</param>
    /// <param name="force">Whether devices are unbound for it.</param>
    public async Task<UnloadAnswer> UnloadModuleAsync(string name, bool force) => new(name, await _loader.UnloadAsync(name, force));

    /// <summary>Brings the fabric to a manifest, or only says what that would take.</summary>
    /// <param name="path">The manifest.</param>
    /// <param name="isDry">Whether nothing is done.</param>
    /// <param name="cancellationToken">Ends the work between two steps, and the wait of a step.</param>
    /// <exception cref="VirtbusException">
    /// EBUSY: another one is being applied; the manifest is wrong, or asks for what can't change while the fabric runs: nothing is done then. What a
    /// step answers, with what was done before it: applying it again goes on from there.
    /// </exception>
    public async Task<ApplyAnswer> ApplyAsync(string path, bool isDry, CancellationToken cancellationToken)
    {
        if (State != DaemonState.Ready)
            throw new VirtbusException(Errno.EBUSY, "The fabric is coming up or going down. Apply a manifest when it is up.");
        var manifest = ManifestReader.ReadFile(path);
        if (isDry)
            return new ApplyAnswer(NewPlanner().Plan(_manifest, manifest).Changes, Applied: false);
        using var end = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken, _stop.Token);
        if (!await _applying.WaitAsync(0, cancellationToken))
            throw new VirtbusException(Errno.EBUSY, "Another manifest is being applied. Try again when that has ended.");
        try
        {
            var plan = NewPlanner().Plan(_manifest, manifest);
            var done = 0;
            foreach (var step in plan.Steps)
            {
                // Between two steps: what waited for a user goes on to nothing else when nobody wants it any more.
                end.Token.ThrowIfCancellationRequested();
                try
                {
                    await step.Act(end.Token);
                    done++;
                }
                catch (VirtbusException e)
                {
                    throw new VirtbusException(e.Errno, $"{step.Title}: {e.Message} {done} steps were done before it; apply the manifest again to go on.", e);
                }
            }
            await SettleAsync(TimeToSettle, end.Token);
            _manifest = manifest;
            return new ApplyAnswer(plan.Changes, Applied: true);
        }
        catch (OperationCanceledException e) when (_stop.IsCancellationRequested)
        {
            throw new VirtbusException(Errno.ECANCELED, "The fabric goes down, so the manifest is not applied any further.", e);
        }
        finally
        {
            _applying.Release();
        }
    }

    /// <summary>Waits for what goes on beside its callers, and not for what hangs, as a function does whose server does not answer.</summary>
    /// <param name="most">How long at most.</param>
    /// <param name="cancellationToken">Ends the wait.</param>
    public async Task SettleAsync(TimeSpan most, CancellationToken cancellationToken)
    {
        try
        {
            await Fabric.SettleAsync(cancellationToken).WaitAsync(most, _options.Time, cancellationToken);
        }
        catch (TimeoutException)
        {
            // It is done, or fails, when it is; the log and the function say so.
        }
    }

    private FabricPlanner NewPlanner() => new(_engine, _hardware, _groups, cancel => SettleAsync(TimeToSettle, cancel));

    /// <summary>The fabric as a manifest.</summary>
    public string Export() => ManifestExport.Write(_hardware, _engine, _groups, _manifest.Modules);

    /// <summary>Where the tree is mounted.</summary>
    public IReadOnlyList<MountAnswer> DescribeMounts() =>
        [.. (_mounts?.Mounts ?? []).Select(static m => new MountAnswer(m.Options.Folder, m.Options.User, m.Names, m.OpenFiles))];

    /// <summary>The daemon as a whole.</summary>
    public StatusAnswer Describe()
    {
        var (devices, bound) = (0, 0);
        foreach (var device in Fabric.AllDevices)
        {
            devices++;
            bound += device.Driver is null ? 0 : 1;
        }
        return new StatusAnswer(
            State.ToString().ToLowerInvariant(),
            _holder.Pid,
            Version,
            _holder.Since,
            (long)Uptime.TotalSeconds,
            _holder.Manifest,
            _options.Runtime.Path,
            devices,
            bound,
            Fabric.DeferredDevices.Count,
            _loader.Loaded.Count,
            DescribeSockets(null),
            [.. _budgets.Select(b => new BudgetAnswer(b.Name, b.Used, b.Limit))],
            Fabric.GetBus<PciBus>().Faults.Count + Fabric.GetBus<VdpaBus>().Faults.Count);
    }

    private SocketAnswer Describe(DeviceSocket socket)
    {
        var endpoint = socket.Endpoint;
        var connection = endpoint.Connection;
        return new SocketAnswer(
            socket.Name,
            socket.Protocol,
            endpoint.Path,
            connection is not null,
            socket.Address,
            endpoint.Connections,
            endpoint.BadMessages,
            connection is null ? null : new ConnectionAnswer(
                connection.Process == 0 ? null : connection.Process,
                connection.Name.Length == 0 ? null : connection.Name,
                connection.Since,
                Math.Max(0, (long)(_options.Time.GetUtcNow() - connection.Since).TotalSeconds),
                connection.Messages,
                connection.BadMessages,
                connection.Maps),
            endpoint.Hint);
    }

    // What 'virtbus status' says, for those who look into the tree.
    private void AddToTree()
    {
        (string Name, Func<string> Show)[] facts =
        [
            ("manifest", () => _holder.Manifest),
            ("mounts", () => string.Join('\n', DescribeMounts().Select(static m => m.Folder))),
            ("process", () => $"{_holder.Pid}"),
            ("runtime", () => _options.Runtime.Path),
            ("since", () => $"{_holder.Since:yyyy-MM-ddTHH:mm:ssZ}"),
            ("state", () => State.ToString().ToLowerInvariant()),
            ("uptime", () => $"{(long)Uptime.TotalSeconds}"),
            ("version", () => Version),
        ];
        foreach (var folder in LookedFor)
            Fabric.Tree.AddFolder(folder);
        VfioSuggestion.ShowOnDevices(Fabric, _loader);
        Add("fabric", facts, new ObjectAttribute<Fabric>("shutdown", null, ShutDownAsync));
        Add("budgets", [.. _budgets.Select(b => (b.Name.Replace(' ', '_'), (Func<string>)(() => $"{b.Used?.ToString() ?? "unknown"} {b.Limit?.ToString() ?? "max"}")))]);

        // A device of a class has its own directory, to which the socket's name leads.
        Fabric.Tree.AddKernelDirectory(new TreeDirectory("sockets", () => _hardware.Sockets.Select(s => Path.GetFileName(s.Endpoint.Path) is var file && s.ClassDevice is { } device
            ? (TreeNode)new TreeLink(file, device.DevPath)
            : new TreeDirectory(file, () => EndpointAttributes.Of<IDeviceEndpoint>(e => e).Select(a => new TreeFile($"/kernel/sockets/{file}/{a.Name}", s.Endpoint, a))))));

        void Add(string folder, (string Name, Func<string> Show)[] files, params ObjectAttribute<Fabric>[] more) => Fabric.Tree.AddKernelDirectory(new TreeDirectory(
            folder,
            () => files.Select(f => new ObjectAttribute<Fabric>(f.Name, _ => f.Show())).Concat(more).Select(a => new TreeFile($"/kernel/{folder}/{a.Name}", Fabric, a))));
    }

    // Answered when the fabric is down, as 'virtbus down' is; the process ends after that.
    private async ValueTask ShutDownAsync(Fabric fabric, string value, CancellationToken cancellationToken)
    {
        const string path = "/kernel/fabric/shutdown";
        if (AttributeValue.ParseUnsigned(path, value) != 1)
            throw new VirtbusException(Errno.EINVAL, $"{path}: '{value}' is not 1. Write 1 to take the fabric down.");
        RequestShutdown();
        if (!(await TakenDown.WaitAsync(cancellationToken)).Clean)
            throw new VirtbusException(Errno.ETIMEDOUT, "The fabric ended before all of it was taken down in order. The daemon's log says where it hung.");
    }

    private TimeSpan Uptime => _options.Time.GetElapsedTime(_start);

    private static string Version => typeof(FabricDaemon).Assembly.GetName().Version?.ToString(3) ?? "";

    private async Task ApplyAsync(CancellationToken cancellationToken)
    {
        var manifest = _options.Manifest;
        await _hardware.StartAsync();
        // Before what lasts is taken up, since it may be of a provider that one of them brings.
        foreach (var module in manifest.Modules.Names)
        {
            _options.Progress($"module {module}");
            await At(_ => module.Place, new ValueTask(_loader.LoadAsync(module)));
        }
        _engine.Restore(new DefinitionFolder(_options.Runtime.StateFolder), waits: true);
        if (FunctionSet.FindConflicts(manifest, _engine.Functions, _options.Runtime.StateFolder) is { Count: > 0 } conflicts)
            throw new ManifestException(manifest.File, conflicts);
        foreach (var one in manifest.Switches)
            await At(_ => one.Tap?.Place ?? one.Name.Place, _hardware.AddSwitchAsync(one));
        foreach (var adapter in manifest.Adapters)
        {
            _options.Progress($"adapter {adapter.Name} ({adapter.Model.ToString().ToLowerInvariant()})");
            await At(e => e.Field == "tap" && adapter.Tap is { } tap ? tap.Place : adapter.Name.Place, FinishAsync(_hardware.AddAdapterAsync(adapter)));
        }
        await AddFunctionsAsync(manifest, cancellationToken);
        foreach (var group in manifest.Devices)
        {
            _options.Progress($"{group.Count} devices {DeviceGroups.KeyOf(group)}");
            await At(_ => group.Name.Place, _groups.AddAsync(group, group.Parent is { } parent ? _hardware.DeviceOf(parent) : null, _options.Progress, cancellationToken));
        }
        _options.Progress("probes");
        await Fabric.SettleAsync(cancellationToken);
        foreach (var join in manifest.Joins)
            await At(e => e.Field == "tap" && join.Tap is { } tap ? tap.Place : join.Interface.Place, _hardware.Joins.AddAsync(join.Join, mustBeThere: false));
        _hardware.CheckOffered();
        // Behind the manifest's, whose places are the same at each start; what takes its time comes, or fails, when the fabric is up.
        _engine.ReturnAll();
        await SettleAsync(TimeToReturn, cancellationToken);
        _manifest = manifest;
    }

    // All are defined, and media opened, before the first is made: what is wrong with any is told at once.
    private async ValueTask AddFunctionsAsync(FabricManifest manifest, CancellationToken cancellationToken)
    {
        var sets = FunctionSet.Of(manifest, _engine);
        if (sets.Count == 0)
            return;
        // The drivers of adapters are loaded by their aliases, beside us.
        await Fabric.SettleAsync(cancellationToken);
        var errors = new List<ManifestError>();
        foreach (var function in sets.Where(static s => !s.IsOfFunction).SelectMany(static s => s.Functions))
        {
            try
            {
                if (function.Kind == ManifestFunction.Plugged)
                    _hardware.RequireProvider(function);
                var defined = function.DefineIn(_engine);
                if (function.Kind == DiskFunctions.KindName)
                    _hardware.OpenMedium(defined);
            }
            catch (VirtbusException e)
            {
                errors.Add(function.ErrorOf(e));
            }
        }
        if (errors.Count > 0)
            throw new ManifestException(manifest.File, errors);
        foreach (var set in sets)
        {
            _options.Progress(set.Title);
            await At(e => set.Functions.Count == 0 ? set.At.Place : PlaceOf(set.Functions, e), set.IsOfFunction ? set.MakeAsync(_engine, cancellationToken) : set.ActivateAsync(_engine, cancellationToken));
        }
    }

    // Of functions that are made together, the one that an error names.
    private static ManifestPlace PlaceOf(IReadOnlyList<ManifestFunction> set, VirtbusException e)
    {
        var error = (set.FirstOrDefault(f => e.Message.Contains($"'{f.Name}'", StringComparison.Ordinal)) ?? set.FirstOrDefault(f => e.Field is { } field && f.Places.ContainsKey(field)) ?? set[0]).ErrorOf(e);
        return new ManifestPlace(error.At, error.Path);
    }

    // What the manifest asks for and the host refuses is an error at the manifest's key too.
    private async ValueTask At(Func<VirtbusException, ManifestPlace> placeOf, ValueTask work)
    {
        try
        {
            await work;
        }
        catch (VirtbusException e) when (e is not ManifestException)
        {
            var place = placeOf(e);
            throw new VirtbusException(e.Errno, new ManifestError(place.At, place.Path, e.Message).ToString(_options.Manifest.File), e);
        }
    }

    private static async ValueTask FinishAsync<T>(ValueTask<T> work) => await work;
}
