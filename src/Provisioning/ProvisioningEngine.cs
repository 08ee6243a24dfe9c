using System.Collections.Immutable;
using Virtbus.Core;
using Virtbus.Platform;
using static Virtbus.Provisioning.ProvisionedFunction;

namespace Virtbus.Provisioning;

/// <summary>
/// The one way in which functions come to be: defined, configured, activated, and back. Virtual functions, vDPA devices, disks, functions of
/// other processes are kinds of it, each made by a <see cref="FunctionProvider"/>. Nothing of a function is visible before its activation, and a
/// request that is refused in one point changes nothing (PV-01).
/// </summary>
/// <remarks>All members are safe to call from any thread. Readers wait for nobody. No lock is held while a provider works.</remarks>
public sealed class ProvisioningEngine
{
    private readonly Lock _lock = new();
    private readonly Fabric _fabric;
    private ImmutableList<ProvisionedFunction> _functions = [];
    private readonly ProviderTable _providers = new();
    private IDefinitionStore? _store;
    private long _order;

    private ProvisioningEngine(Fabric fabric)
    {
        _fabric = fabric;
        fabric.Tree.AddKernelDirectory(ProvisioningTree.Make(this));
    }

    /// <summary>The functions that are defined, in the order in which they were.</summary>
    public IReadOnlyList<ProvisionedFunction> Functions => Volatile.Read(ref _functions);

    /// <summary>The providers that are there.</summary>
    public IReadOnlyList<FunctionProvider> Providers => _providers.All;

    /// <summary>The engine of a fabric, which has one.</summary>
    /// <param name="fabric">The fabric.</param>
    public static ProvisioningEngine Of(Fabric fabric)
    {
        ArgumentNullException.ThrowIfNull(fabric);
        return fabric.GetSubsystem(static f => new ProvisioningEngine(f));
    }

    /// <summary>Loads the modules of drivers that profiles name; null when drivers have to be there. Set once, before anything is activated.</summary>
    public ModuleLoader? Modules { get; set; }

    /// <summary>Says why a driver that was asked for did not take a device, when somebody knows more than the log. Set once.</summary>
    public Func<Device, VirtbusException?>? WhyNotBound { get; set; }

    /// <summary>Finds a function.</summary>
    /// <param name="name">Its name.</param>
    /// <exception cref="VirtbusException">ENOENT: none has it.</exception>
    public ProvisionedFunction Get(string name) =>
        Functions.FirstOrDefault(f => f.Name == name)
        ?? throw new VirtbusException(Errno.ENOENT, $"No function '{name}' is defined. 'virtbus function list' shows those that are.");

    /// <summary>The functions of a provider, in the order in which they were defined.</summary>
    /// <param name="provider">The provider.</param>
    public IReadOnlyList<ProvisionedFunction> FunctionsOf(FunctionProvider provider) => [.. Functions.Where(f => f.Now.Provider == provider)];

    /// <summary>Takes up what lasts, and keeps from now on what is defined to last. Once, before anything is defined.</summary>
    /// <param name="store">Where definitions last.</param>
    /// <exception cref="VirtbusException">As <see cref="IDefinitionStore.Load"/>.</exception>
    public void Restore(IDefinitionStore store)
    {
        ArgumentNullException.ThrowIfNull(store);
        lock (_lock)
        {
            _store = store;
            foreach (var kept in store.Load())
            {
                var function = new ProvisionedFunction(kept.Name, kept.Kind, kept.Parent, kept.Order, isKept: true)
                {
                    RawValues = kept.Values,
                    Place = kept.Place,
                };
                _order = Math.Max(_order, kept.Order + 1);
                function.Now = function.Now with { IsWanted = kept.IsActive };
                _functions = _functions.Add(function);
                if (_providers.Find(kept.Kind, kept.Parent) is { } provider)
                    function.Adopt(provider);
            }
        }
    }

    /// <summary>Adds a provider: what waits for it gets it, and what was active comes back when the provider has it so.</summary>
    /// <param name="provider">The provider.</param>
    /// <exception cref="VirtbusException">EEXIST: there is one of that kind and parent.</exception>
    public void AddProvider(FunctionProvider provider)
    {
        ArgumentNullException.ThrowIfNull(provider);
        lock (_lock)
        {
            _providers.Add(provider);
            foreach (var function in _functions)
            {
                if (function.Kind == provider.Kind && function.Now.Provider is null && ProviderTable.IsParent(provider, function.Parent))
                    function.Adopt(provider);
            }
        }

        Return(provider);
    }

    /// <summary>Removes a provider. Its functions are gone for the engine; their definitions stay. What it is just making is cancelled.</summary>
    /// <param name="provider">The provider; one that is not there is no error.</param>
    public void RemoveProvider(FunctionProvider provider)
    {
        ArgumentNullException.ThrowIfNull(provider);
        List<CancellationTokenSource> going = [];
        lock (_lock)
        {
            _providers.Remove(provider);
            foreach (var function in _functions.Where(f => f.Now.Provider == provider))
            {
                function.Now = function.Now with { Provider = null };
                if (function.Cancel is { } cancel)
                    going.Add(cancel);
            }
        }

        Cancel(going);
    }

    /// <summary>What a provider makes its functions on is back: those that were active and are wanted still are activated, beside the caller.</summary>
    /// <param name="provider">The provider, when it has that (<see cref="FunctionProvider.Returns"/>).</param>
    public void Return(FunctionProvider provider)
    {
        ArgumentNullException.ThrowIfNull(provider);
        // Those that are kept and were active when the program ended have no device yet, and come in any case.
        var wanted = FunctionsOf(provider).Where(f => IsMissing(f) && (provider.Returns || f.Now.Device is null)).ToList();
        foreach (var names in provider.ComesTogether && wanted.Count > 0 ? [wanted] : wanted.ConvertAll(static f => new List<ProvisionedFunction> { f }))
        {
            _fabric.StartWork($"functions of kind {provider.Kind}{ProviderTable.At(provider)}", async () =>
            {
                // Deactivated meanwhile, or activated by somebody.
                if (names.TrueForAll(IsMissing))
                    await ActivateAsync(names.ConvertAll(static f => f.Name));
            });
        }
    }

    /// <summary>Defines a function: from then on it can be configured and activated. Nothing of it is visible.</summary>
    /// <param name="name">Its name: 1 to 63 letters, digits, '_', '.' and '-', a letter or digit first.</param>
    /// <param name="kind">Its kind.</param>
    /// <param name="parent">What it hangs at; null when there is only one provider of the kind.</param>
    /// <param name="values">Values of its attributes, as text.</param>
    /// <param name="isKept">Whether the definition lasts over the end of the program, when there is a store.</param>
    /// <exception cref="VirtbusException">
    /// EINVAL: the name, or a value; EEXIST: the name is taken; ENODEV: no such provider is there; EOPNOTSUPP: an attribute that the kind has not; or
    /// what the store answers. Nothing is defined then.
    /// </exception>
    public ProvisionedFunction Define(string name, string kind, string? parent, IEnumerable<KeyValuePair<string, string>> values, bool isKept = false)
    {
        ArgumentNullException.ThrowIfNull(name);
        ArgumentNullException.ThrowIfNull(values);
        if (name.Length is 0 or > 63 || !char.IsAsciiLetterOrDigit(name[0]) || !name.All(static c => char.IsAsciiLetterOrDigit(c) || c is '_' or '.' or '-'))
            throw new VirtbusException(Errno.EINVAL, $"'{name}' is no name of a function. Write 1 to 63 letters, digits, '_', '.' and '-', a letter or digit first.");
        lock (_lock)
        {
            if (_functions.Exists(f => f.Name == name))
                throw new VirtbusException(Errno.EEXIST, $"A function '{name}' is defined already. Choose another name, or undefine that one.");
            var provider = _providers.Find(kind, parent) ?? throw _providers.Missing(name, kind, parent);
            var profile = FunctionProfile.Parse(kind, name, provider.Fields, values);
            provider.Check(profile);
            var function = new ProvisionedFunction(name, kind, provider.Parents.Count == 0 ? null : provider.Parents[0], _order++, isKept && _store is not null);
            function.Now = new Moment(provider, profile, null, Work.None, false);
            Keep(function, function.Now);
            _functions = _functions.Add(function);
            return function;
        }
    }

    /// <summary>Changes attributes, all or none of them. An empty text takes a value away.</summary>
    /// <param name="name">The function.</param>
    /// <param name="values">The new values.</param>
    /// <exception cref="VirtbusException">
    /// ENOENT; EOPNOTSUPP, EINVAL: an attribute or a value; EBUSY: one that may not change while the function is active, or something is being done
    /// with the function; ENODEV: its provider is not there; or what the provider or the store answers. Nothing is changed then.
    /// </exception>
    public async ValueTask SetAsync(string name, IReadOnlyCollection<KeyValuePair<string, string>> values)
    {
        ArgumentNullException.ThrowIfNull(values);
        ProvisionedFunction function;
        FunctionProfile before, after;
        FunctionProvider provider;
        Device? device;
        lock (_lock)
        {
            function = Get(name);
            (provider, before) = function.Ready();
            after = before.With(values);
            provider.Check(after);
            device = function.Device;
            if (device is null)
            {
                var next = function.Now with { Profile = after };
                Keep(function, next);
                function.Now = next;
                return;
            }

            if (provider.Fields.FirstOrDefault(f => f.Change == FieldChange.BeforeActivation && before.Text(f) != after.Text(f)) is { } field)
            {
                throw new VirtbusException(
                    Errno.EBUSY, $"Function '{name}' is active, and its {field.Name} can change only before that. Deactivate it first: virtbus function deactivate {name}");
            }

            function.Begin(Work.Changing);
        }

        try
        {
            await provider.ChangeAsync(before, after, device);
            lock (_lock)
            {
                var next = function.Now with { Profile = after };
                Keep(function, next);
                function.Now = next;
            }
        }
        finally
        {
            lock (_lock)
                function.End();
        }
    }

    /// <summary>Makes functions, all or none. When it returns they are on their bus, and drivers that probed them found them finished.</summary>
    /// <param name="names">The functions, which may be of several providers.</param>
    /// <param name="cancellationToken">Ends the wait for what a provider waits for.</param>
    /// <exception cref="VirtbusException">
    /// ENOENT; EINVAL: something that has to be set is not (PV-06); EBUSY: one is active, or something is being done with it; ENODEV: its provider is
    /// not there; ECANCELED: it was deactivated meanwhile; or what the provider or the store answers. None is active then that was not before.
    /// </exception>
    public async ValueTask ActivateAsync(IReadOnlyList<string> names, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(names);
        // Not disposed: whoever deactivates a function cancels it outside the lock.
        var cancel = new CancellationTokenSource();
        await using var given = cancellationToken.Register(cancel.Cancel);
        List<ProvisionedFunction> functions;
        lock (_lock)
        {
            functions = [.. names.Distinct().Select(Get)];
            foreach (var function in functions)
                function.ThrowUnlessReady();
            foreach (var function in functions)
            {
                function.Begin(Work.Activating);
                function.Cancel = cancel;
            }
        }

        var made = new List<ProvisionedFunction>();
        try
        {
            foreach (var group in functions.GroupBy(static f => f.Now.Provider))
            {
                await ActivateAsync(group.Key, [.. group], cancel.Token);
                made.AddRange(group);
            }
        }
        catch (Exception e)
        {
            await TakeBackAsync(made);
            if (e is OperationCanceledException && !cancellationToken.IsCancellationRequested)
                throw new VirtbusException(Errno.ECANCELED, $"The activation of {string.Join(", ", names)} was cancelled. Activate it again to have it.", e);
            throw;
        }
        finally
        {
            lock (_lock)
            {
                foreach (var function in functions)
                    function.End();
            }
        }
    }

    /// <summary>
    /// Defines a function that does not last and activates it, both or nothing. One of that name that does not last and is not active makes room.
    /// </summary>
    /// <param name="name">Its name.</param>
    /// <param name="kind">Its kind.</param>
    /// <param name="parent">What it hangs at; null when there is only one provider of the kind.</param>
    /// <param name="values">Values of its attributes, as text.</param>
    /// <param name="cancellationToken">Ends the wait for what the provider waits for.</param>
    /// <exception cref="VirtbusException">As <see cref="Define"/> and <see cref="ActivateAsync(IReadOnlyList{string}, CancellationToken)"/>.</exception>
    public async ValueTask<ProvisionedFunction> AddAsync(
        string name, string kind, string? parent, IEnumerable<KeyValuePair<string, string>> values, CancellationToken cancellationToken = default)
    {
        ProvisionedFunction function;
        lock (_lock)
        {
            if (_functions.Find(f => f.Name == name) is { IsKept: false, IsActive: false, Now.Work: Work.None })
                Undefine(name);
            function = Define(name, kind, parent, values);
        }

        try
        {
            await ActivateAsync([name], cancellationToken);
            return function;
        }
        catch
        {
            lock (_lock)
                _functions = _functions.Remove(function);
            throw;
        }
    }

    /// <summary>
    /// Takes functions away; waits for who has one open, and cancels an activation that goes on. The definitions stay. Functions that are not there,
    /// and would come back with what they hang at, do not any more.
    /// </summary>
    /// <param name="names">The functions.</param>
    /// <exception cref="VirtbusException">ENOENT; EBUSY: one is being changed or deactivated; EINVAL: one is not active; or what the provider answers.</exception>
    public async ValueTask DeactivateAsync(IReadOnlyList<string> names)
    {
        ArgumentNullException.ThrowIfNull(names);
        List<ProvisionedFunction> functions = [.. names.Distinct().Select(Get)];
        foreach (var function in functions)
            await CancelAsync(function);
        List<ProvisionedFunction> active = [];
        lock (_lock)
        {
            foreach (var function in functions)
            {
                function.ThrowIfBusy();
                if (!function.Now.IsWanted && !function.IsActive)
                    throw new VirtbusException(Errno.EINVAL, $"Function '{function.Name}' is not active, so it can't be deactivated. 'virtbus function list' shows what is.");
            }

            foreach (var function in functions)
            {
                var next = function.Now with { IsWanted = false };
                Keep(function, next);
                function.Now = next;
                if (!function.IsActive)
                    continue;
                function.Begin(Work.Draining);
                active.Add(function);
            }
        }

        try
        {
            foreach (var group in active.GroupBy(static f => f.Now.Provider))
                await TakeAwayAsync(group.Key, [.. group]);
        }
        finally
        {
            lock (_lock)
            {
                foreach (var function in active)
                    function.End();
            }
        }
    }

    /// <summary>Forgets a definition.</summary>
    /// <param name="name">The function.</param>
    /// <exception cref="VirtbusException">ENOENT; EBUSY: it is active, or something is being done with it; or what the store answers.</exception>
    public void Undefine(string name)
    {
        lock (_lock)
        {
            var function = Get(name);
            function.ThrowIfBusy();
            if (function.IsActive)
                throw new VirtbusException(Errno.EBUSY, $"Function '{name}' is active. Deactivate it first: virtbus function deactivate {name}");
            if (function.IsKept)
                _store!.Remove(name);
            _functions = _functions.Remove(function);
        }
    }

    /// <summary>For providers: makes sure that a driver is there before a device comes that only it may take. An override alone loads no module.</summary>
    /// <param name="bus">The driver's bus.</param>
    /// <param name="driver">Its name.</param>
    /// <exception cref="VirtbusException">ENOENT: there is no such module.</exception>
    public async ValueTask LoadDriverAsync(Bus bus, string driver)
    {
        ArgumentNullException.ThrowIfNull(bus);
        ArgumentNullException.ThrowIfNull(driver);
        if (Modules is not null && !bus.TryGetDriver(driver, out _))
            await Modules.LoadAsync(ModuleName.Of(driver));
    }

    /// <summary>For providers: refuses a device that the driver of its profile did not take.</summary>
    /// <param name="function">The function's name.</param>
    /// <param name="device">Its device.</param>
    /// <param name="driver">The driver.</param>
    /// <exception cref="VirtbusException">ENODEV, or what <see cref="WhyNotBound"/> says.</exception>
    public void RequireDriver(string function, Device device, string driver)
    {
        ArgumentNullException.ThrowIfNull(device);
        if (device.Driver?.Name == driver)
            return;
        throw WhyNotBound?.Invoke(device)
            ?? new VirtbusException(Errno.ENODEV, $"Function '{function}': driver {driver} did not take {device.Name}: {device.DeferredReason ?? "the log says why"}. Name another driver.");
    }

    /// <summary>
    /// For a provider whose functions come by another way as well, as virtual functions do by <c>sriov_numvfs</c>: the function is active with that device.
    /// </summary>
    /// <param name="function">A function of the provider.</param>
    /// <param name="device">The device.</param>
    public void NoteActive(ProvisionedFunction function, Device device)
    {
        ArgumentNullException.ThrowIfNull(function);
        ArgumentNullException.ThrowIfNull(device);
        lock (_lock)
        {
            function.Now = function.Now with { Device = device, IsWanted = true };
            Keep(function, function.Now);
        }
    }

    /// <summary>For such a provider: the function was taken away in order.</summary>
    /// <param name="function">A function of the provider.</param>
    public void NoteInactive(ProvisionedFunction function)
    {
        ArgumentNullException.ThrowIfNull(function);
        lock (_lock)
        {
            function.Now = function.Now with { Device = null, IsWanted = false };
            Keep(function, function.Now);
        }
    }

    private static async ValueTask TakeAwayAsync(FunctionProvider? provider, List<ProvisionedFunction> functions)
    {
        // Gone with its provider meanwhile.
        if (provider is not null)
            await provider.DeactivateAsync([.. functions.Where(static f => f.IsActive).Select(static f => (f.Now.Profile!, f.Device!))]);
    }

    // An activation that goes on ends, one way or the other.
    private async ValueTask CancelAsync(ProvisionedFunction function)
    {
        CancellationTokenSource cancel;
        Task done;
        lock (_lock)
        {
            if (function is not { Now.Work: Work.Activating, Cancel: { } going, Done: { } end })
                return;
            (cancel, done) = (going, end.Task);
            // So that it may be deactivated however the activation ends.
            function.Now = function.Now with { IsWanted = true };
        }

        Cancel([cancel]);
        await done;
    }

    // On this thread: what waits for it goes on by the fabric's scheduler.
    private static void Cancel(IEnumerable<CancellationTokenSource> all)
    {
        foreach (var one in all)
            one.Cancel();
    }

    private static bool IsMissing(ProvisionedFunction function) => function.Now is { IsWanted: true, Work: Work.None } && !function.IsActive;

    private async ValueTask ActivateAsync(FunctionProvider? provider, List<ProvisionedFunction> functions, CancellationToken cancellationToken)
    {
        if (provider is null)
            throw new VirtbusException(Errno.ENODEV, $"What makes {string.Join(", ", functions)} went away meanwhile. Bind its driver again.");
        var devices = await provider.ActivateAsync([.. functions.Select(static f => f.Now.Profile!.At(f.Place))], cancellationToken);
        lock (_lock)
        {
            for (var i = 0; i < functions.Count; i++)
            {
                functions[i].Place = provider.PlaceOf(devices[i]);
                functions[i].Now = functions[i].Now with { Device = devices[i], IsWanted = true };
            }
        }

        try
        {
            lock (_lock)
            {
                foreach (var function in functions)
                    Keep(function, function.Now);
            }
        }
        catch
        {
            await TakeBackAsync(functions);
            throw;
        }
    }

    // What was made before something failed.
    private async ValueTask TakeBackAsync(List<ProvisionedFunction> functions)
    {
        foreach (var group in functions.GroupBy(static f => f.Now.Provider).Reverse())
            await TakeAwayAsync(group.Key, [.. group]);
        lock (_lock)
        {
            foreach (var function in functions)
            {
                function.Now = function.Now with { IsWanted = false };
                Keep(function, function.Now);
            }
        }
    }

    // Under the lock, before it counts.
    private void Keep(ProvisionedFunction function, Moment next)
    {
        if (function.IsKept)
            _store?.Save(function.ToStored(next));
    }
}
