using System.Diagnostics;
using Microsoft.Extensions.Logging;
using Virtbus.Buses.Auxiliary;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Daemon.Api;
using Virtbus.Daemon.Manifest;
using Virtbus.Daemon.Provisioning;
using Virtbus.Platform;

namespace Virtbus.Daemon;

/// <summary>A running fabric: made from a manifest, controlled through a socket, taken down in order.</summary>
internal sealed partial class FabricDaemon
{
    private static readonly TimeSpan TimeToStop = TimeSpan.FromMilliseconds(1800);
    private readonly FabricDaemonOptions _options;
    private readonly ILogger _log;
    private readonly RuntimeLock _lock;
    private readonly LockHolder _holder;
    private readonly ModuleLoader _loader;
    private readonly IProvisioner _provisioner;
    private readonly DeviceGroups _groups;
    private readonly CancellationTokenSource _stop = new();
    private readonly TaskCompletionSource _stopRequested = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource<ShutdownAnswer> _takenDown = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private ControlServer? _server;

    private FabricDaemon(FabricDaemonOptions options, LockHolder holder, RuntimeLock held)
    {
        _options = options;
        _log = options.LoggerFactory.CreateLogger("Virtbus.Daemon");
        (_holder, _lock) = (holder, held);
        Fabric = new Fabric(new FabricOptions { LoggerFactory = options.LoggerFactory, Time = options.Time });
        var auxiliary = Fabric.RegisterBus(new AuxiliaryBus());
        Fabric.RegisterBus(new PciBus());
        try
        {
            _loader = new ModuleLoader(Fabric, [options.ModulesFolder, .. options.Manifest.Modules is { } extra ? [extra.Value] : Array.Empty<string>()]);
        }
        catch
        {
            _lock.Dispose();
            throw;
        }
        _provisioner = options.Provisioner(new ProvisioningContext(Fabric, _loader, options.Runtime.Path, options.LoggerFactory));
        _groups = new DeviceGroups(Fabric, auxiliary);
        View = new FabricView(Fabric, _loader);
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
        ServiceThread.Unhandled = (name, exception) => ThreadFailed(log, name, exception);
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
            daemon.State = DaemonState.Ready;
            Started(daemon._log, options.ManifestName, Version);
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
    /// Takes all down in order: drivers are shut down, devices go newest first, modules are unloaded, sockets close. Takes no more than 2 s;
    /// what hangs is left to the end of the process.
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
            await Task.Run(TakeDownAsync).WaitAsync(TimeToStop);
        }
        catch (TimeoutException)
        {
            clean = false;
            StopHangs(_log, Volatile.Read(ref step), (int)TimeToStop.TotalMilliseconds);
        }
        catch (Exception e)
        {
            clean = false;
            StopFailed(_log, Volatile.Read(ref step), e);
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
            _provisioner.RevokeAll();
            Step("drivers shut down");
            _loader.Dispose();
            await Fabric.ShutdownAsync();
            Step("devices removed");
            await _groups.DisposeAsync();
            await _provisioner.DisposeAsync();
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
        return View.Modules().First(m => m.Name == name || m.Name == name.Replace('-', '_'));
    }

    /// <summary>Unloads a module by name.</summary>
    /// <param name="name">The module.</param>
    /// <param name="force">Whether devices are unbound for it.</param>
    public async Task<UnloadAnswer> UnloadModuleAsync(string name, bool force) => new(name, await _loader.UnloadAsync(name, force));

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
            _holder.Manifest,
            _options.Runtime.Path,
            devices,
            bound,
            Fabric.DeferredDevices.Count,
            _loader.Loaded.Count,
            [.. _provisioner.Sockets.Select(s => new SocketAnswer(s.Device, s.Protocol, s.Path, s.IsConnected, s.Address))]);
    }

    private static string Version => typeof(FabricDaemon).Assembly.GetName().Version?.ToString(3) ?? "";

    private async Task ApplyAsync(CancellationToken cancellationToken)
    {
        var manifest = _options.Manifest;
        var adapters = new Dictionary<string, Device>();
        await _provisioner.StartAsync();
        foreach (var adapter in manifest.Adapters)
        {
            _options.Progress($"adapter {adapter.Name} ({adapter.Model.ToString().ToLowerInvariant()})");
            adapters.Add(adapter.Name, await At(adapter.Name, _provisioner.ProvisionAdapterAsync(adapter, cancellationToken)));
        }
        foreach (var disk in manifest.Disks)
        {
            _options.Progress($"disk {disk.Name} on {disk.Adapter}");
            await At(disk.Name, _provisioner.ProvisionDiskAsync(disk, cancellationToken));
        }
        foreach (var serial in manifest.Serials)
        {
            _options.Progress($"serial port {serial.Name}");
            await At(serial.Name, _provisioner.ProvisionSerialAsync(serial, cancellationToken));
        }
        foreach (var function in manifest.Functions)
        {
            _options.Progress($"function {function.Name} ({function.Provider} {function.Function.Value})");
            await At(function.Name, _provisioner.ProvisionFunctionAsync(function, cancellationToken));
        }
        foreach (var group in manifest.Devices)
        {
            _options.Progress($"{group.Count} devices {group.Module}.{group.Name}");
            await At(group.Name, _groups.AddAsync(group, group.Parent is { } parent ? adapters[parent] : null, _options.Progress, cancellationToken));
        }
        _options.Progress("probes");
        await Fabric.SettleAsync(cancellationToken);
        _provisioner.CheckOffered();
    }

    // What the manifest asks for and the host refuses is an error at the manifest's line too.
    private async ValueTask<T> At<T>(ManifestValue<string> name, ValueTask<T> work)
    {
        try
        {
            return await work;
        }
        catch (VirtbusException e) when (e is not ManifestException)
        {
            throw new VirtbusException(e.Errno, new ManifestError(name.At, name.Path, e.Message).ToString(_options.Manifest.File), e);
        }
    }

    private async ValueTask At(ManifestValue<string> name, ValueTask work)
    {
        await At(name, FinishAsync());

        async ValueTask<bool> FinishAsync()
        {
            await work;
            return true;
        }
    }

    [LoggerMessage(601, LogLevel.Information, "Fabric of {Manifest} is up, version {Version}")]
    private static partial void Started(ILogger log, string manifest, string version);

    [LoggerMessage(602, LogLevel.Error, "Going down hangs at '{Step}' after {Milliseconds} ms; the process ends all the same")]
    private static partial void StopHangs(ILogger log, string step, int milliseconds);

    [LoggerMessage(604, LogLevel.Error, "Thread '{Name}' failed; the rest goes on")]
    private static partial void ThreadFailed(ILogger log, string name, Exception error);

    [LoggerMessage(603, LogLevel.Error, "Going down failed at '{Step}'; the process ends all the same")]
    private static partial void StopFailed(ILogger log, string step, Exception error);
}
