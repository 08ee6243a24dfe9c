using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.Loader;
using Microsoft.Extensions.Logging;
using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>
/// Loads driver modules from one or more folders into a fabric: when asked, and by itself when a device appears whose alias a module declares.
/// Dropping a file into the folder is enough; the folder is watched. Each module has a load context of its own, which is really
/// collected after an unload.
/// </summary>
/// <remarks>Safe from any thread; loads and unloads take turns.</remarks>
public sealed class ModuleLoader : IDisposable
{
    private const int CollectAttempts = 50;
    private readonly Fabric _fabric;
    private readonly ILogger _log;
    private readonly SemaphoreSlim _turn = new(1, 1);
    private readonly Dictionary<string, Entry> _loaded = [];
    private readonly HashSet<string> _requested = [];
    private readonly HashSet<SkippedModule> _reported = [];
    private readonly List<FileSystemWatcher> _watchers = [];
    private readonly ModuleTree _tree;
    private ModuleIndex _index;

    /// <summary>Makes a loader and its index; from now on devices that appear get their module.</summary>
    /// <param name="fabric">The fabric.</param>
    /// <param name="folder">The modules folder.</param>
    /// <param name="watch">Whether files that appear later are noticed without being asked for.</param>
    /// <exception cref="VirtbusException">EPERM: others can write the folder, or rename it.</exception>
    public ModuleLoader(Fabric fabric, string folder, bool watch = true)
        : this(fabric, [folder], watch)
    {
    }

    /// <summary>Makes a loader and its index; from now on devices that appear get their module.</summary>
    /// <param name="fabric">The fabric.</param>
    /// <param name="folders">The modules folders; of modules with one name, that of the first folder counts.</param>
    /// <param name="watch">Whether files that appear later are noticed without being asked for.</param>
    /// <exception cref="VirtbusException">EPERM: others can write one of the folders, or rename it. One that becomes so later has no modules.</exception>
    public ModuleLoader(Fabric fabric, IReadOnlyList<string> folders, bool watch = true)
    {
        ArgumentNullException.ThrowIfNull(fabric);
        ArgumentNullException.ThrowIfNull(folders);
        _fabric = fabric;
        _log = fabric.Log;
        Folders = [.. folders.Select(Path.GetFullPath)];
        foreach (var folder in Folders.Where(Directory.Exists))
        {
            if (!TrustedPath.TryCheck(folder, out var distrust))
                throw new VirtbusException(Errno.EPERM, $"Modules folder {folder} is not used, since a module is code of this program: {distrust}");
        }
        _index = ModuleIndex.Read(Folders);
        ReportSkipped();
        fabric.Life.AddModaliasListener(OnModalias);
        fabric.Drivers.SetSource(BringAsync);
        _tree = new ModuleTree(fabric, this);
        foreach (var folder in watch ? Folders.Where(Directory.Exists) : [])
        {
            var watcher = new FileSystemWatcher(folder, "*.dll") { NotifyFilter = NotifyFilters.FileName | NotifyFilters.LastWrite | NotifyFilters.Size };
            watcher.Created += (_, _) => OnFolderChanged();
            watcher.Changed += (_, _) => OnFolderChanged();
            watcher.Renamed += (_, _) => OnFolderChanged();
            watcher.Deleted += (_, _) => OnFolderChanged();
            watcher.Error += (_, _) => OnFolderChanged();
            watcher.EnableRaisingEvents = true;
            _watchers.Add(watcher);
        }
    }

    /// <summary>How long a module's init may take; 30 s unless set.</summary>
    public TimeSpan InitLimit { get; set; } = TimeSpan.FromSeconds(30);

    /// <summary>The modules folders, the first one first.</summary>
    public IReadOnlyList<string> Folders { get; }

    /// <summary>The index as it is now.</summary>
    public ModuleIndex Index => Volatile.Read(ref _index);

    /// <summary>The loaded modules in load order.</summary>
    public IReadOnlyList<LoadedModule> Loaded
    {
        get
        {
            lock (_loaded)
                return [.. _loaded.Values.OrderBy(e => e.Order).Select(Describe)];
        }
    }

    /// <summary>Reads the folders again. Devices without a driver whose module is there now get it.</summary>
    public async Task RescanAsync()
    {
        HashSet<ModuleInfo> known;
        await _turn.WaitAsync();
        try
        {
            known = new HashSet<ModuleInfo>(_index.Modules, ReferenceEqualityComparer.Instance);
            Refresh();
        }
        finally
        {
            _turn.Release();
        }
        RequestForUnbound(module => !known.Contains(module));
    }

    /// <summary>Loads a module and those that it depends on. Loading a loaded module does nothing.</summary>
    /// <param name="name">The module's name.</param>
    /// <exception cref="VirtbusException">ENOENT: no such module; ENOEXEC-like failures of its code as EINVAL, or what its init answers.</exception>
    public async Task LoadAsync(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        await _turn.WaitAsync();
        try
        {
            if (_index.Find(name) is null)
                Refresh();
            await LoadInTurnAsync(name, []);
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Unloads a module; its drivers are unregistered, its load context is collected.</summary>
    /// <param name="name">The module's name.</param>
    /// <param name="force">Unbinds devices that its drivers are bound to, instead of refusing.</param>
    /// <returns>True when the load context was seen to be collected; false when something still refers to the module's objects.</returns>
    /// <exception cref="VirtbusException">
    /// ENOENT: not loaded; EBUSY: in use by another module, bound and not forced, or something that it added is in use, see <see cref="ModuleContext.Add"/>.
    /// </exception>
    public async Task<bool> UnloadAsync(string name, bool force = false)
    {
        ArgumentNullException.ThrowIfNull(name);
        WeakReference context;
        await _turn.WaitAsync();
        try
        {
            context = await ExitInTurnAsync(name, force);
        }
        finally
        {
            _turn.Release();
        }
        for (var i = 0; i < CollectAttempts && context.IsAlive; i++)
        {
            // A context goes when the last object, stack frame and async state that came from it has gone.
            GC.Collect();
            GC.WaitForPendingFinalizers();
            if (context.IsAlive)
                await Task.Delay(TimeSpan.FromMilliseconds(5), _fabric.Time);
        }
        return !context.IsAlive;
    }

    /// <summary>Unloads everything, newest first, bound or not.</summary>
    public async Task UnloadAllAsync()
    {
        await _turn.WaitAsync();
        try
        {
            while (true)
            {
                string? name;
                lock (_loaded)
                    name = _loaded.Values.OrderByDescending(e => e.Order).FirstOrDefault()?.Info.Name;
                if (name is null)
                    return;
                await ExitInTurnAsync(name, force: true, isEnd: true);
            }
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Stops to watch and to serve appearing devices. Loaded modules stay.</summary>
    public void Dispose()
    {
        foreach (var watcher in _watchers)
            watcher.Dispose();
        _fabric.Life.RemoveModaliasListener(OnModalias);
        _fabric.Drivers.SetSource(null);
        _tree.Dispose();
    }

    // A driver that serves nothing of its own accord is not loaded by any device that appears; by custom it is called as its module.
    private async ValueTask BringAsync(Bus bus, string driver)
    {
        var module = ModuleName.Of(driver);
        if (Index.Find(module) is null)
            await RescanAsync();
        if (Index.Find(module) is null)
        {
            throw new VirtbusException(
                Errno.ENOENT, $"Bus {bus.Name} has no driver '{driver}', and there is no module '{module}' that could bring it.{Suggestion.For(driver, Index.DriverNames(bus))} 'virtbus driver list' and 'virtbus module list' show what there is.");
        }
        await LoadAsync(module);
        if (bus.TryGetDriver(driver, out _))
            return;
        var brought = Loaded.FirstOrDefault(m => m.Info.Name == module)?.Drivers ?? [];
        var instead = brought.Count > 0 ? $", whose driver is {string.Join(", ", brought)}" : "";
        throw new VirtbusException(Errno.ENOENT, $"Bus {bus.Name} has no driver '{driver}'; that is the name of a module{instead}. Name a driver.");
    }

    private static LoadedModule Describe(Entry entry) => new(
        entry.Info,
        [.. entry.Context.Drivers.Select(d => d.Name)],
        [.. entry.Holders.Order(StringComparer.Ordinal)],
        entry.Context.Drivers.Sum(d => d.Devices.Count));

    private void OnModalias(string modalias) => Request(modalias, Index.FindByAlias(modalias));

    private void Request(string modalias, IEnumerable<ModuleInfo> modules)
    {
        foreach (var module in modules)
        {
            lock (_loaded)
            {
                if (_loaded.ContainsKey(module.Name) || !_requested.Add(module.Name))
                    continue;
            }
            _fabric.StartWork("load of module " + module.Name, () => LoadForAliasAsync(module.Name, modalias));
        }
    }

    private async Task LoadForAliasAsync(string name, string modalias)
    {
        try
        {
            await LoadAsync(name);
        }
        catch (VirtbusException e)
        {
            FabricLog.ModuleLoadFailed(_log, name, modalias, e.Message);
        }
        finally
        {
            lock (_loaded)
                _requested.Remove(name);
        }
    }

    private void OnFolderChanged() => _fabric.StartWork("scan of the modules folder", RescanAsync);

    // A module that was there before was asked for when its device came; who unloaded it since wants it unloaded.
    private void RequestForUnbound(Func<ModuleInfo, bool> isNew)
    {
        foreach (var device in _fabric.Buses.SelectMany(b => b.Devices))
        {
            if (device.Binding.State == BindingState.Unbound && device.Bus!.DriversAutoprobe && device.Modalias is { } modalias)
                Request(modalias, Index.FindByAlias(modalias).Where(isNew));
        }
    }

    private void Refresh()
    {
        Volatile.Write(ref _index, ModuleIndex.Read(Folders, _index));
        ReportSkipped();
    }

    private void ReportSkipped()
    {
        foreach (var skipped in _index.Skipped)
        {
            if (_reported.Add(skipped))
                FabricLog.ModuleSkipped(_log, skipped.Path, skipped.Reason);
        }
    }

    private async Task<Entry> LoadInTurnAsync(string name, IReadOnlyList<string> above)
    {
        var info = _index.Find(name) ?? throw NotUsable(name);
        lock (_loaded)
        {
            if (_loaded.TryGetValue(info.Name, out var there))
                return there;
        }
        if (above.Contains(info.Name))
            throw new VirtbusException(Errno.ELOOP, $"Modules depend on each other in a circle: {string.Join(" -> ", [.. above, info.Name])}.");
        var needed = new List<Entry>();
        foreach (var reference in info.References)
        {
            if (_index.Find(reference) is { } module && module.Name == reference)
                needed.Add(await LoadInTurnAsync(reference, [.. above, info.Name]));
        }
        var entry = Open(info, needed);
        lock (_loaded)
        {
            entry.Order = _loaded.Count == 0 ? 1 : _loaded.Values.Max(e => e.Order) + 1;
            _loaded.Add(info.Name, entry);
            foreach (var other in needed)
                other.Holders.Add(info.Name);
        }
        _fabric.Uevents.Emit(UeventAction.Add, "/module", info.Name, "module");
        try
        {
            // Beside us: an init that never returns must not take the loader with it.
            await _fabric.Scheduler.Start(() => entry.Module.InitAsync(entry.Context).AsTask()).WaitAsync(InitLimit, _fabric.Time);
        }
        catch (TimeoutException)
        {
            await CloseAsync(entry);
            throw new VirtbusException(Errno.ETIMEDOUT, $"Module {info.Name} did not start within {InitLimit.TotalSeconds:0.###} s and was taken out again. Its InitAsync must register and return.");
        }
        catch (Exception e)
        {
            await CloseAsync(entry);
            var errno = e is VirtbusException v ? v.Errno : Errno.EINVAL;
            throw new VirtbusException(errno, $"Module {info.Name} refused to start: {e.Message}", e is VirtbusException ? null : Flatten(e));
        }
        FabricLog.ModuleLoaded(_log, info.Name);
        return entry;
    }

    private VirtbusException NotUsable(string name)
    {
        var file = ModuleName.Of(name);
        return _index.Skipped.FirstOrDefault(s => ModuleName.Of(Path.GetFileNameWithoutExtension(s.Path)) == file && s.Path.EndsWith(".dll", StringComparison.Ordinal)) is { } skipped
            ? new VirtbusException(Errno.EINVAL, $"Module '{name}' can't be used, {skipped.Path}: {skipped.Reason}")
            : new VirtbusException(Errno.ENOENT, $"There is no module '{name}' in {string.Join(" or ", Folders)}.{Suggestion.For(name, _index.Modules.Select(static m => m.Name))} 'virtbus module list' names those there are.");
    }

    // An exception of a module's own type would keep its load context alive.
    private static Exception Flatten(Exception e) => new InvalidOperationException(e.ToString());

    private Entry Open(ModuleInfo info, List<Entry> needed)
    {
        var context = new Context(info, [.. needed.Select(n => n.Assembly)]);
        try
        {
            var assembly = context.LoadModule();
            var type = assembly.GetType(info.EntryType)
                ?? throw new VirtbusException(Errno.EINVAL, $"Module {info.Name}: its entry class {info.EntryType} does not exist. Build {info.Path} again.");
            if (Activator.CreateInstance(type) is not IFabricModule module)
                throw new VirtbusException(Errno.EINVAL, $"Module {info.Name}: its entry class {info.EntryType} is no IFabricModule of this program.");
            return new Entry(info, context, assembly, module, new ModuleContext(_fabric, info.Name), [.. needed.Select(n => n.Info.Name)]);
        }
        catch (Exception e)
        {
            context.Unload();
            if (e is VirtbusException)
                throw;
            var cause = (e as TargetInvocationException)?.InnerException ?? e;
            throw new VirtbusException(Errno.EINVAL, $"Module {info.Name} can't be loaded from {info.Path}: {cause.Message}", Flatten(cause));
        }
    }

    private async Task<WeakReference> ExitInTurnAsync(string name, bool force, bool isEnd = false)
    {
        Entry entry;
        lock (_loaded)
        {
            entry = ModuleName.Find(_loaded, name)
                ?? throw new VirtbusException(Errno.ENOENT, $"Module {name} is not loaded.{Suggestion.For(name, _loaded.Keys)} 'virtbus module list' names the loaded ones.");
        }
        name = entry.Info.Name;
        if (entry.Holders.Count > 0)
            throw new VirtbusException(Errno.EBUSY, $"Module {name} is in use by {string.Join(", ", entry.Holders)}. Unload that first.");
        var bound = entry.Context.Drivers.SelectMany(d => d.Devices).Select(d => d.Name).ToList();
        if (bound.Count > 0 && !force)
            throw new VirtbusException(Errno.EBUSY, $"Module {name} has a driver bound to {string.Join(", ", bound.Take(5))}{(bound.Count > 5 ? " …" : "")}. Unbind it, or unload with --force.");
        entry.Context.RemoveAdditions(isEnd);
        await CloseAsync(entry);
        FabricLog.ModuleUnloaded(_log, name);
        return entry.Weak;
    }

    private async ValueTask CloseAsync(Entry entry)
    {
        // Of an init that failed; after an unload that may go on there is nothing left.
        entry.Context.RemoveAdditions(whateverUsesIt: true);
        try
        {
            await entry.Module.ExitAsync();
        }
        catch (Exception e)
        {
            FabricLog.ModuleExitFailed(_log, entry.Info.Name, Flatten(e));
        }
        await entry.Context.UnregisterAllAsync();
        lock (_loaded)
        {
            _loaded.Remove(entry.Info.Name);
            foreach (var other in entry.Needs)
                _loaded[other].Holders.Remove(entry.Info.Name);
        }
        _fabric.Uevents.Emit(UeventAction.Remove, "/module", entry.Info.Name, "module");
        entry.Close();
    }

    private sealed class Entry(ModuleInfo info, Context context, Assembly assembly, IFabricModule module, ModuleContext moduleContext, IReadOnlyList<string> needs)
    {
        private Context? _context = context;
        private Assembly? _assembly = assembly;
        private IFabricModule? _module = module;

        public ModuleInfo Info { get; } = info;

        public ModuleContext Context { get; } = moduleContext;

        public IReadOnlyList<string> Needs { get; } = needs;

        public HashSet<string> Holders { get; } = [];

        public int Order { get; set; }

        public WeakReference Weak { get; } = new(context);

        public Assembly Assembly => _assembly ?? throw new ObjectDisposedException(Info.Name);

        public IFabricModule Module => _module ?? throw new ObjectDisposedException(Info.Name);

        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Close()
        {
            _module = null;
            _assembly = null;
            _context?.Unload();
            _context = null;
        }
    }

    private sealed class Context(ModuleInfo info, Assembly[] needed) : AssemblyLoadContext(info.Name, isCollectible: true)
    {
        public Assembly LoadModule() => LoadFile(info.Path);

        // The program's assemblies come from the program, so that its types are the same on both sides; a module's own companions come
        // from a folder of its name beside it.
        protected override Assembly? Load(AssemblyName assemblyName)
        {
            if (needed.FirstOrDefault(a => a.GetName().Name == assemblyName.Name) is { } module)
                return module;
            var companion = Path.Combine(Path.GetDirectoryName(info.Path)!, info.Name, assemblyName.Name + ".dll");
            return File.Exists(companion) ? LoadFile(companion) : null;
        }

        // By content: the file can be replaced while it is loaded.
        private Assembly LoadFile(string path)
        {
            // Looked at again: the index may be older than the last chmod, and it knows nothing of companions.
            ThrowIfDistrusted(path);
            using var image = new MemoryStream(File.ReadAllBytes(path));
            var symbols = Path.ChangeExtension(path, ".pdb");
            if (!File.Exists(symbols))
                return LoadFromStream(image);
            ThrowIfDistrusted(symbols);
            using var debug = new MemoryStream(File.ReadAllBytes(symbols));
            return LoadFromStream(image, debug);
        }

        private static void ThrowIfDistrusted(string path)
        {
            if (!TrustedPath.TryCheck(path, out var distrust))
                throw new VirtbusException(Errno.EPERM, $"{path} is not loaded, since a module is code of this program: {distrust}");
        }
    }
}
