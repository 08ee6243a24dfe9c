using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Buses.Pci;

/// <summary>
/// The virtual functions of a physical one, as functions that are defined and configured before they are there. PCI enables the first so many at once
/// (SR-IOV 3.3.3.1, 3.3.7), so they are activated and deactivated as one set; a write to <c>sriov_numvfs</c> is another way to the same. A driver of the
/// physical function makes one when it probes, and disposes it when it is removed. Safe from any thread.
/// </summary>
public class VirtualFunctionProvider : FunctionProvider, IDisposable
{
    private const int MaxFunctions = 256;

    private static readonly ProfileField<int> IndexField = ProfileFields.Number("index", "the virtual function, counted", 0, MaxFunctions - 1, isRequired: true);
    private static readonly ProfileField<string> DriverName = ProfileFields.Driver("vfio-pci");

    private readonly PciDevice _device;
    private readonly ProvisioningEngine _engine;
    private readonly ProfileField[] _fields;
    // Nobody defined them: they go with the virtual functions.
    private readonly List<ProvisionedFunction> _passing = [];
    private volatile bool _isOver;

    /// <summary>Makes the provider of a physical function; it is known to the fabric's engine from <see cref="Start"/> on.</summary>
    /// <param name="device">The physical function.</param>
    /// <param name="own">What can be said of a virtual one beside its number and its driver.</param>
    public VirtualFunctionProvider(PciDevice device, params ProfileField[] own)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(own);
        _device = device;
        _engine = ProvisioningEngine.Of(device.Fabric!);
        _fields = [IndexField, .. own, DriverName];
        Parents = device.Label is { } label ? [label, device.Name] : [device.Name];
    }

    /// <inheritdoc/>
    public override string Kind => "vf";

    /// <inheritdoc/>
    public override IReadOnlyList<string> Parents { get; }

    /// <inheritdoc/>
    public override IReadOnlyList<ProfileField> Fields => _fields;

    /// <inheritdoc/>
    public override bool ComesTogether => true;

    /// <summary>The number of a virtual function, from 0; in profiles that have one.</summary>
    protected static ProfileField<int> Index => IndexField;

    /// <summary>Adds it to the engine: from here on virtual functions can be defined, and those come that are to come back.</summary>
    public void Start() => _engine.AddProvider(this);

    /// <inheritdoc/>
    public override void Check(FunctionProfile profile)
    {
        ArgumentNullException.ThrowIfNull(profile);
        if (!profile.TryGet(IndexField, out var index))
            return;
        if (index >= _device.TotalVirtualFunctions)
            throw new VirtbusException(Errno.EINVAL, $"Function '{profile.Name}': {_device.Name} has no virtual function {index}; it can have {_device.TotalVirtualFunctions}, from 0.");
        if (_engine.FunctionsOf(this).FirstOrDefault(f => f.Name != profile.Name && IndexOf(f) == index) is { } other)
            throw new VirtbusException(Errno.EEXIST, $"Function '{profile.Name}': virtual function {index} of {_device.Name} is '{other.Name}' already. Choose another index.");
    }

    /// <inheritdoc/>
    public override async ValueTask<IReadOnlyList<Device>> ActivateAsync(IReadOnlyList<FunctionProfile> profiles, CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(profiles);
        var sorted = profiles.OrderBy(static p => p.Get(IndexField)).ToList();
        foreach (var driver in sorted.Select(DriverOf).OfType<string>().Distinct())
            await _engine.LoadDriverAsync(_device.Bus!, driver);
        // Those of this moment: the next in turn may take them away again.
        IReadOnlyList<PciDevice> functions = [];
        await _device.Fabric!.RunExclusiveAsync(_device, async () =>
        {
            // Unbound while this waited for its turn: the core is another one's now, or nobody's.
            if (_isOver)
                throw new VirtbusException(Errno.ENODEV, $"{_device.Name} lost its driver meanwhile, so its virtual functions were not made. Bind it again.");
            if (_device.VirtualFunctions.Count is > 0 and var there)
            {
                throw new VirtbusException(
                    Errno.EBUSY, $"{_device.Name} has {there} virtual functions, and PCI enables all at once. Deactivate those first, or 'virtbus vf disable {_device.Label ?? _device.Name}'; then activate all together.");
            }

            // Of some that were there before, among others for which nothing lasts, the others come again too: a number had made them.
            if (Enumerable.Range(0, sorted.Count).FirstOrDefault(i => sorted[i].Get(IndexField) != i, -1) is >= 0 and var gap
                && !sorted.Exists(p => _engine.Get(p.Name).IsAwaited))
            {
                throw new VirtbusException(
                    Errno.EINVAL,
                    $"Virtual function {sorted[gap].Get(IndexField)} ('{sorted[gap].Name}') of {_device.Name} can't come without virtual function {gap}: PCI enables the first so many. Define that one too, and activate both together.");
            }

            var count = sorted[^1].Get(IndexField) + 1;
            var asked = sorted.ToDictionary(static p => p.Get(IndexField));
            var others = DefinedBelow(count).Where(f => !asked.ContainsKey(f.Key)).ToDictionary();
            await EnableAsync(count, i => asked.GetValueOrDefault(i) ?? others.GetValueOrDefault(i).Profile);
            try
            {
                foreach (var profile in sorted)
                {
                    if (DriverOf(profile) is { } driver)
                        await _engine.RequireDriverAsync(profile.Name, _device.VirtualFunctions[profile.Get(IndexField)], driver, cancellationToken);
                }
            }
            catch
            {
                await _device.SetVirtualFunctionsAsync(0);
                throw;
            }

            functions = _device.VirtualFunctions;
            Note(functions.Where(d => !asked.ContainsKey(d.VirtualFunctionIndex)), others);
        }, cancellationToken);
        return [.. profiles.Select(p => functions[p.Get(IndexField)])];
    }

    /// <inheritdoc/>
    public override void CheckDeactivation(IReadOnlyList<(FunctionProfile Profile, Device Device)> functions)
    {
        var left = _device.VirtualFunctions.Except(functions.Select(static f => f.Device)).ToList();
        if (left.Count > 0)
        {
            throw new VirtbusException(
                Errno.EBUSY,
                $"The virtual functions of {_device.Name} go together, and {string.Join(", ", left.Take(4).Select(static d => (d as PciDevice)?.Label ?? d.Name))}{(left.Count > 4 ? " …" : "")} would stay. Deactivate all of them in one call, or 'virtbus vf disable {_device.Label ?? _device.Name}'.");
        }
    }

    /// <inheritdoc/>
    public override async ValueTask DeactivateAsync(IReadOnlyList<(FunctionProfile Profile, Device Device)> functions)
    {
        await _device.Fabric!.RunExclusiveAsync(_device, async () =>
        {
            CheckDeactivation(functions);
            await _device.SetVirtualFunctionsAsync(0);
        });
    }

    /// <summary>The driver goes: definitions stay, what was made for a number alone goes.</summary>
    public void Dispose()
    {
        GC.SuppressFinalize(this);
        _isOver = true;
        _engine.RemoveProvider(this);
        Forget();
    }

    /// <summary>Does what a write to <c>sriov_numvfs</c> asks for; in the physical function's transition.</summary>
    /// <param name="count">How many, 0 to take all away.</param>
    /// <exception cref="VirtbusException">What the bus says: too many, or some are there.</exception>
    public async ValueTask SetNumberAsync(int count)
    {
        if (count == 0)
        {
            var active = _engine.FunctionsOf(this).Where(static f => f.Device is not null).ToList();
            active.ForEach(_engine.NoteInactive);
            try
            {
                await _device.SetVirtualFunctionsAsync(0);
            }
            catch
            {
                foreach (var function in active)
                {
                    if (function is { Device: { } there, Profile: { } profile })
                        _engine.NoteActive(function, there, profile);
                }

                throw;
            }

            active.ForEach(_engine.NoteInactive);
            Forget();
            return;
        }

        var defined = DefinedBelow(count);
        await EnableAsync(count, i => defined.GetValueOrDefault(i).Profile);
        Note(_device.VirtualFunctions, defined);
    }

    /// <summary>Makes the hardware what a virtual function is to be, before anything sees it; in the physical function's transition.</summary>
    /// <param name="index">Its number.</param>
    /// <param name="profile">What is said of it; null when nothing is.</param>
    protected virtual void Configure(int index, FunctionProfile? profile)
    {
    }

    // With their profiles as they are now: what the hardware is told is what they are.
    private Dictionary<int, (ProvisionedFunction Function, FunctionProfile Profile)> DefinedBelow(int count) => _engine.FunctionsOf(this)
        .Select(static f => (Function: f, f.Profile)).Where(static f => f.Profile is not null)
        .Select(static f => (Index: IndexOf(f.Profile!), f.Function, Profile: f.Profile!)).Where(f => f.Index < count)
        .ToDictionary(static f => f.Index!.Value, static f => (f.Function, f.Profile));

    // They came by the number.
    private void Note(IEnumerable<PciDevice> devices, Dictionary<int, (ProvisionedFunction Function, FunctionProfile Profile)> defined)
    {
        foreach (var device in devices)
        {
            if (defined.TryGetValue(device.VirtualFunctionIndex, out var there))
                _engine.NoteActive(there.Function, device, there.Profile);
            else if (TryDefine(device) is { Profile: { } profile } made)
                _engine.NoteActive(made, device, profile);
        }
    }

    // So that all that are there are shown. A name that another function has is no reason to refuse the number.
    private ProvisionedFunction? TryDefine(PciDevice device)
    {
        try
        {
            var function = _engine.Define(device.Label ?? device.Name, Kind, Parents[0], [KeyValuePair.Create(IndexField.Name, $"{device.VirtualFunctionIndex}")]);
            _passing.Add(function);
            return function;
        }
        catch (VirtbusException)
        {
            return null;
        }
    }

    private void Forget()
    {
        foreach (var function in _passing.Where(f => f.Device is null && _engine.Functions.Contains(f)))
        {
            try
            {
                _engine.Undefine(function.Name);
            }
            catch (VirtbusException)
            {
                // Somebody does something with it just now: it stays a definition.
            }
        }

        _passing.Clear();
    }

    private static int? IndexOf(ProvisionedFunction function) => function.Profile is { } profile ? IndexOf(profile) : null;

    private static int? IndexOf(FunctionProfile profile) => profile.IsSet(IndexField) ? profile.Get(IndexField) : null;

    private static string? DriverOf(FunctionProfile profile) => profile.TryGet(DriverName, out var driver) ? driver : null;

    // The hardware knows what each is to be, and the bus by which driver alone, before anything sees one.
    private ValueTask EnableAsync(int count, Func<int, FunctionProfile?> profileOf)
    {
        for (var i = 0; i < count; i++)
            Configure(i, profileOf(i));
        return _device.SetVirtualFunctionsAsync(count, function =>
        {
            if (profileOf(function.VirtualFunctionIndex) is { } profile && DriverOf(profile) is { } driver)
                _device.Fabric!.SetDriverOverride(function, driver);
            return default;
        });
    }
}
