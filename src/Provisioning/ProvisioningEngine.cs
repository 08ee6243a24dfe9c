using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Provisioning;

/// <summary>
/// The one way in which functions come to be: defined, configured, activated, and back. Virtual functions, vDPA devices, disks, functions of
/// other processes are kinds of it, each made by a <see cref="FunctionProvider"/>. Nothing of a function is visible before its activation, and a
/// request that is refused in one point changes nothing (PV-01).
/// </summary>
/// <remarks>All members are safe to call from any thread. Readers wait for nobody. No lock is held while a provider works.</remarks>
public sealed class ProvisioningEngine
{
    private readonly DefinitionBook _book = new();
    private readonly ProviderTable _providers = new();
    private readonly FunctionLife _life;

    private volatile bool _waits;

    private ProvisioningEngine(Fabric fabric)
    {
        _life = new FunctionLife(fabric, _book);
        fabric.Tree.AddKernelDirectory(ProvisioningTree.Make(this));
    }

    /// <summary>The functions that are defined, in the order in which they were.</summary>
    public IReadOnlyList<ProvisionedFunction> Functions => _book.All;

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
    public ProvisionedFunction Get(string name) => _book.Get(name);

    /// <summary>Whether a text can be a function's name: 1 to 63 letters, digits, '_', '.' and '-', a letter or digit first.</summary>
    /// <param name="name">The text.</param>
    public static bool IsName(string name) =>
        name?.Length is > 0 and <= 63 && char.IsAsciiLetterOrDigit(name[0]) && name.All(static c => char.IsAsciiLetterOrDigit(c) || c is '_' or '.' or '-');

    /// <summary>The functions of a provider, in the order in which they were defined.</summary>
    /// <param name="provider">The provider.</param>
    public IReadOnlyList<ProvisionedFunction> FunctionsOf(FunctionProvider provider) => [.. Functions.Where(f => f.Now.Provider == provider)];

    /// <summary>Takes up what lasts, and keeps from now on what is defined to last. Once, before anything is defined.</summary>
    /// <param name="store">Where definitions last.</param>
    /// <param name="waits">Whether what was active stays away until <see cref="ReturnAll"/>, so that others have their places first.</param>
    /// <exception cref="VirtbusException">As <see cref="IDefinitionStore.Load"/>.</exception>
    public void Restore(IDefinitionStore store, bool waits = false)
    {
        ArgumentNullException.ThrowIfNull(store);
        _waits = waits;
        lock (_book.Lock)
        {
            foreach (var function in _book.Load(store))
            {
                if (_providers.Of(function) is { } provider)
                    function.Adopt(provider);
            }
        }

        if (!waits)
            ReturnAll();
    }

    /// <summary>Has what was active come back, beside the caller, from every provider that is there; and from now on from those that come.</summary>
    public void ReturnAll()
    {
        _waits = false;
        foreach (var provider in _providers.All)
            Return(provider);
    }

    /// <summary>Adds a provider: what waits for it gets it, and what was active comes back when the provider has it so.</summary>
    /// <param name="provider">The provider.</param>
    /// <exception cref="VirtbusException">EEXIST: there is one of that kind and parent.</exception>
    public void AddProvider(FunctionProvider provider)
    {
        ArgumentNullException.ThrowIfNull(provider);
        lock (_book.Lock)
        {
            _providers.Add(provider);
            foreach (var function in Functions)
            {
                if (function.Now.Provider is null && ProviderTable.Makes(provider, function))
                    function.Adopt(provider);
            }
        }

        Return(provider);
    }

    /// <summary>A provider takes more than it did: definitions that it refused are looked at again, and what was active of them comes back.</summary>
    /// <param name="provider">The provider; one that was added.</param>
    public void Reconsider(FunctionProvider provider)
    {
        ArgumentNullException.ThrowIfNull(provider);
        List<ProvisionedFunction> refused;
        lock (_book.Lock)
        {
            refused = [.. FunctionsOf(provider).Where(static f => f is { Refusal: not null, IsIdle: true })];
            foreach (var function in refused)
                function.Adopt(provider);
        }

        // Those alone: what others failed at is not begun again by this.
        if (!_waits)
            _life.Return(provider, refused);
    }

    /// <summary>Removes a provider. Its functions are gone for the engine; their definitions stay. What it is just making is cancelled.</summary>
    /// <param name="provider">The provider; one that is not there is no error.</param>
    public void RemoveProvider(FunctionProvider provider)
    {
        ArgumentNullException.ThrowIfNull(provider);
        List<CancellationTokenSource> going = [];
        lock (_book.Lock)
        {
            _providers.Remove(provider);
            foreach (var function in FunctionsOf(provider))
            {
                function.Lose();
                if (function.Cancel is { } cancel)
                    going.Add(cancel);
            }
        }

        FunctionLife.Cancel(going);
    }

    /// <summary>What a provider makes its functions on is back: those that were active and are wanted still are activated, beside the caller.</summary>
    /// <param name="provider">The provider, when it has that (<see cref="FunctionProvider.Returns"/>).</param>
    public void Return(FunctionProvider provider)
    {
        ArgumentNullException.ThrowIfNull(provider);
        if (!_waits)
            _life.Return(provider);
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
        if (!IsName(name))
            throw new VirtbusException(Errno.EINVAL, $"'{name}' is no name of a function. Write 1 to 63 letters, digits, '_', '.' and '-', a letter or digit first.");
        lock (_book.Lock)
        {
            if (Functions.FirstOrDefault(f => f.Name == name) is { } other)
                throw new VirtbusException(Errno.EEXIST, $"A function '{name}' is defined already{(other.IsKept ? ", to last over the end of the program" : "")}. Choose another name, or undefine that one.");
            var provider = _providers.Find(kind, parent) ?? throw _providers.Missing(name, kind, parent);
            var profile = FunctionProfile.Parse(kind, name, provider.Fields, values);
            provider.Check(profile);
            return _book.Add(name, kind, provider, profile, isKept);
        }
    }

    /// <summary>Changes attributes, all or none of them. An empty text takes a value away.</summary>
    /// <param name="name">The function.</param>
    /// <param name="values">The new values.</param>
    /// <exception cref="VirtbusException">
    /// ENOENT; EOPNOTSUPP, EINVAL: an attribute or a value; EBUSY: one that may not change while the function is active, or something is being done
    /// with the function; ENODEV: its provider is not there; or what the provider or the store answers. Nothing is changed then.
    /// </exception>
    public ValueTask SetAsync(string name, IReadOnlyCollection<KeyValuePair<string, string>> values)
    {
        ArgumentNullException.ThrowIfNull(values);
        return _life.SetAsync(name, values);
    }

    /// <summary>Makes functions, all or none. When it returns they are on their bus, and drivers that probed them found them finished.</summary>
    /// <param name="names">The functions, which may be of several providers.</param>
    /// <param name="cancellationToken">Ends the wait for what a provider waits for.</param>
    /// <exception cref="VirtbusException">
    /// ENOENT; EINVAL: something that has to be set is not (PV-06); EBUSY: one is active, or something is being done with it; ENODEV: its provider is
    /// not there; ECANCELED: it was deactivated meanwhile; or what the provider or the store answers. None is active then that was not before.
    /// </exception>
    public ValueTask ActivateAsync(IReadOnlyList<string> names, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(names);
        return _life.ActivateAsync(() => names.Distinct().Select(Get), cancellationToken);
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
        // Its provider lets go of what it had for the one before, so not under the lock.
        if (Functions.FirstOrDefault(f => f.Name == name) is { IsKept: false, IsActive: false, IsIdle: true } other && other.Kind == kind)
            Undefine(name);
        var function = Define(name, kind, parent, values);

        try
        {
            await ActivateAsync([name], cancellationToken);
            return function;
        }
        catch
        {
            lock (_book.Lock)
            {
                // One that could not be taken back is there: who can name it can deactivate it.
                if (function is { IsForgotten: false, IsActive: false, IsIdle: true })
                    _book.Remove(function);
            }

            throw;
        }
    }

    /// <summary>
    /// Takes functions away; waits for who has one open, and cancels an activation that goes on. The definitions stay. Functions that are not there,
    /// and would come back with what they hang at, do not any more.
    /// </summary>
    /// <param name="names">The functions.</param>
    /// <param name="cancellationToken">
    /// Ends the wait for users, with all of them as before. Where a driver waits for its user by itself when it is unbound, as those of VFIO do, that
    /// wait goes on.
    /// </param>
    /// <exception cref="VirtbusException">
    /// As <see cref="CheckDeactivation"/>: nothing is done then; or what the provider answers: the message says of several which are active still.
    /// </exception>
    public ValueTask DeactivateAsync(IReadOnlyList<string> names, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(names);
        return _life.DeactivateAsync(names, cancellationToken);
    }

    /// <summary>Says whether functions can be deactivated, as far as that can be known before; does nothing.</summary>
    /// <param name="names">The functions.</param>
    /// <exception cref="VirtbusException">
    /// ENOENT; EBUSY: one is being changed or deactivated; EINVAL: one is not active; or what a provider says: the message names the one that refuses.
    /// </exception>
    public void CheckDeactivation(IReadOnlyList<string> names)
    {
        ArgumentNullException.ThrowIfNull(names);
        _life.CheckDeactivation(names);
    }

    /// <summary>Forgets a definition.</summary>
    /// <param name="name">The function.</param>
    /// <exception cref="VirtbusException">As for several.</exception>
    public void Undefine(string name) => Undefine([name]);

    /// <summary>Forgets definitions, all or none of them.</summary>
    /// <param name="names">The functions.</param>
    /// <exception cref="VirtbusException">
    /// ENOENT; EBUSY: one is active, or something is being done with it: nothing is done then; or what the store answers: the message says of several
    /// which are forgotten by then.
    /// </exception>
    public void Undefine(IReadOnlyList<string> names)
    {
        ArgumentNullException.ThrowIfNull(names);
        List<ProvisionedFunction> functions, forgotten = [];
        try
        {
            lock (_book.Lock)
            {
                functions = [.. names.Distinct().Select(Get)];
                foreach (var function in functions)
                {
                    function.ThrowIfBusy();
                    if (function.IsActive)
                        throw new VirtbusException(Errno.EBUSY, $"Function '{function}' is active. Deactivate it first: virtbus function deactivate {function}");
                }

                foreach (var function in functions)
                {
                    try
                    {
                        _book.Remove(function);
                    }
                    catch (VirtbusException e) when (functions.Count > 1)
                    {
                        throw FunctionLife.Partly(e, "undefined", forgotten, [.. functions.Except(forgotten)]);
                    }

                    forgotten.Add(function);
                }
            }
        }
        finally
        {
            foreach (var function in forgotten)
                function.Now.Provider?.Forget(function.Name);
        }
    }

    /// <summary>The fabric goes down: what is being activated is cancelled, and nothing comes back any more.</summary>
    public void Close() => _life.Close();

    /// <summary>For providers: makes sure that a driver is there before a device comes that only it may take. An override alone loads no module.</summary>
    /// <param name="bus">The driver's bus.</param>
    /// <param name="driver">Its name.</param>
    /// <exception cref="VirtbusException">ENOENT: there is no such module.</exception>
    public async ValueTask LoadDriverAsync(Bus bus, string driver)
    {
        ArgumentNullException.ThrowIfNull(bus);
        ArgumentNullException.ThrowIfNull(driver);
        if (Modules is null || bus.TryGetDriver(driver, out _))
            return;
        try
        {
            await Modules.LoadAsync(ModuleName.Of(driver));
        }
        catch (VirtbusException e) when (e.Errno == Errno.ENOENT)
        {
            throw NoDriver(bus, driver, e);
        }
        catch (VirtbusException e)
        {
            throw e.At("driver");
        }
        // A module's name is not always its driver's: vfio_pci brings vfio-pci.
        if (!bus.TryGetDriver(driver, out _))
            throw NoDriver(bus, driver, cause: null);
    }

    /// <summary>Refuses a driver that is not there and that no module could bring, before anything is done for it.</summary>
    /// <param name="bus">The driver's bus.</param>
    /// <param name="driver">Its name.</param>
    /// <exception cref="VirtbusException">ENOENT.</exception>
    public void CheckDriver(Bus bus, string driver)
    {
        ArgumentNullException.ThrowIfNull(bus);
        ArgumentNullException.ThrowIfNull(driver);
        if (!bus.TryGetDriver(driver, out _) && Modules?.Index.Find(ModuleName.Of(driver)) is null)
            throw NoDriver(bus, driver, cause: null);
    }

    /// <summary>For providers: refuses a device that the driver of its profile did not take.</summary>
    /// <param name="function">The function's name.</param>
    /// <param name="device">Its device.</param>
    /// <param name="driver">The driver.</param>
    /// <param name="cancellationToken">Ends the wait for a probe above the device.</param>
    /// <exception cref="VirtbusException">ENODEV, or what <see cref="WhyNotBound"/> says.</exception>
    public async ValueTask RequireDriverAsync(string function, Device device, string driver, CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(device);
        if (device.Fabric is { } fabric)
            await fabric.AwaitAttemptAsync(device, cancellationToken);
        if (device.Driver?.Name == driver)
            return;
        var why = WhyNotBound?.Invoke(device);
        var reason = why?.Message ?? device.ProbeFailure ?? $"driver {driver} did not take {device.Name}: {device.DeferredReason ?? "the log says why"}. Name another driver.";
        throw new VirtbusException(why?.Errno ?? Errno.ENODEV, why is null ? $"Function '{function}': {reason}" : reason, why) { Field = "driver" };
    }

    /// <summary>
    /// For a provider whose functions come by another way as well, as virtual functions do by <c>sriov_numvfs</c>: the function is active with that device.
    /// </summary>
    /// <param name="function">A function of the provider.</param>
    /// <param name="device">The device.</param>
    /// <param name="profile">What it was made as; what was set since does not count.</param>
    public void NoteActive(ProvisionedFunction function, Device device, FunctionProfile profile)
    {
        ArgumentNullException.ThrowIfNull(function);
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(profile);
        lock (_book.Lock)
        {
            var place = function.Now.Provider?.PlaceOf(device);
            _book.Note(function, function.Now with { Device = device, Profile = profile, Place = place, IsWanted = true, Failure = null });
        }
    }

    /// <summary>
    /// For such a provider: the function is taken away in order. Said before that begins, so that nothing has it return meanwhile, and when it has ended;
    /// if it failed, the function is active as before (<see cref="NoteActive"/>).
    /// </summary>
    /// <param name="function">A function of the provider.</param>
    public void NoteInactive(ProvisionedFunction function)
    {
        ArgumentNullException.ThrowIfNull(function);
        lock (_book.Lock)
        {
            _book.Note(function, function.Now with { Device = function.IsActive ? function.Now.Device : null, IsWanted = false, Failure = null });
        }
    }

    private VirtbusException NoDriver(Bus bus, string driver, Exception? cause)
    {
        var known = Modules?.Index.DriverNames(bus) ?? bus.Drivers.Select(static d => d.Name);
        return new VirtbusException(
            Errno.ENOENT,
            $"Bus {bus.Name} has no driver '{driver}', and no module would bring it.{Suggestion.For(driver, known)} 'virtbus driver list' and 'virtbus module list' show what there is.",
            cause) { Field = "driver" };
    }
}
