using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Tests.Provisioning.Simulation;

/// <summary>
/// The provisioning engine on one thread under a seed: operators define, set, activate, deactivate and undefine side by side, providers come and go,
/// fail at each step, and the store does. What the engine says is compared with a small model; at the end a program that was killed at some step is
/// started again from what the store had then.
/// </summary>
internal sealed class ProvisioningSimulation : SeededProgram
{
    private readonly Action<ProvisioningSimulation>? _sabotage;
    private readonly Dictionary<string, NameModel> _names = [];
    // What a provider refused to take down or to change, and what that was.
    private readonly Dictionary<string, string> _stayed = [];
    private Killed? _killed;

    public ProvisioningSimulation(ulong seed, Action<ProvisioningSimulation>? sabotage = null, bool trace = false)
        : base(seed, trace, TimeProvider.System)
    {
        _sabotage = sabotage;
        Store = new SimStore(this, new Dictionary<string, StoredDefinition>());
        Engine = ProvisioningEngine.Of(Fabric);
    }

    public ProvisioningEngine Engine { get; }

    public SimStore Store { get; }

    public List<SimProvider> Providers { get; } = [];

    /// <summary>Whether what comes by another way is told to the engine; a planted bug is when not.</summary>
    public bool IsNoted { get; set; } = true;

    /// <summary>Providers take what was kept: refusing that is not what is looked at.</summary>
    public bool IsRestoring { get; private set; }

    /// <summary>Nobody can say any more that a function has to be back.</summary>
    public void Excuse(string name) => Model(name).IsExcused = true;

    public void Tell(string what, string names) => Note(what, names);

    /// <summary>A provider refuses to take a function down, or to make something else of it.</summary>
    public void Stays(FunctionProfile profile) => _stayed[profile.Name] = Facts.Text(profile.Values);

    public void ExcuseAll()
    {
        foreach (var model in _names.Values)
            model.IsExcused = true;
    }

    /// <summary>The program may be killed here: what the store has now is what is there afterwards.</summary>
    public void MayDie(SimStore store)
    {
        if (store != Store || _killed is not null || !Chance(40))
            return;
        Note("killed");
        _killed = new Killed(
            new Dictionary<string, StoredDefinition>(store.Kept),
            _names.Values.ToDictionary(static m => m.Name, static m => m.Possible),
            [.. store.Failed],
            [.. Engine.Functions.Where(f => Model(f.Name).IsIdle && f is { IsKept: true, Now.Work: ProvisionedFunction.Work.None, Device: not null })
                .Select(static f => (f.Name, ((SimFunction)f.Device!).Slot))]);
    }

    protected override async Task ProgramAsync()
    {
        await SetUpAsync(Fabric, Providers, picked: true);
        Engine.Restore(Store);
        foreach (var provider in Providers)
            await provider.ComeAsync(Engine);
        var actors = new Task[2 + Next(3)];
        for (var i = 0; i < actors.Length; i++)
            actors[i] = Scheduler.Start(ActAsync);
        await Task.WhenAll(actors);
        await Fabric.SettleAsync();
        CheckEngine();
        CheckReturned();
        await TakeDownAsync();
        if (_killed is not null && !HasFailed)
            await StartAgainAsync(_killed);
    }

    // The same providers in each life of the program.
    private async ValueTask SetUpAsync(Fabric fabric, List<SimProvider> providers, bool picked)
    {
        var bus = fabric.RegisterBus(new SimFunctionBus("shelf"));
        await fabric.RegisterDriverAsync(new SimFunctionDriver(this, bus));
        foreach (var (name, kind) in (ReadOnlySpan<(string, string)>)[("north", "hook"), ("south", "hook"), ("east", "rail")])
            providers.Add(new SimProvider(this, fabric, bus, new Device(name), kind, picked && Chance(2), picked && Chance(3), picked && Chance(4)));
        foreach (var provider in providers)
            await fabric.AddAsync(provider.At);
    }

    private async Task ActAsync()
    {
        for (var n = 8 + Next(16); n > 0 && !HasFailed; n--)
        {
            await OperateAsync();
            _sabotage?.Invoke(this);
            CheckEngine();
            await PauseAsync();
        }
    }

    private async ValueTask OperateAsync()
    {
        var name = Name();
        switch (Next(17))
        {
            case 0 or 1 or 2:
                Define($"f{Next(6)}");
                break;
            case 3 or 4:
                var values = Values();
                await RequestAsync("set", [name], f => f?.With(values), () => Engine.SetAsync(name, values));
                break;
            case 5 or 6 or 7:
                await RequestAsync("activate", Some(name), static f => f is null ? null : f with { IsWanted = true }, names => Engine.ActivateAsync(names));
                break;
            case 8 or 9:
                await RequestAsync("deactivate", Some(name), static f => f is null ? null : f with { IsWanted = false }, names => Engine.DeactivateAsync(names));
                break;
            case 10:
                await RequestAsync("undefine", [name], static _ => null, () =>
                {
                    Engine.Undefine(name);
                    return default;
                });
                break;
            case 11:
                using (var cancel = new CancellationTokenSource())
                {
                    var activation = RequestAsync(
                        "activate", Some(name), static f => f is null ? null : f with { IsWanted = true }, names => Engine.ActivateAsync(names, cancel.Token));
                    await PauseAsync();
                    Note("cancel", name);
                    cancel.Cancel();
                    await activation;
                }
                break;
            case 12:
                await ReplaceAsync(Providers[Next(Providers.Count)]);
                break;
            case 13 when Devices() is { Count: > 0 } all:
                var lost = all[Next(all.Count)];
                Note("surprise", lost.Name);
                Excuse(lost.Profile.Name);
                await Fabric.SurpriseRemoveAsync(lost);
                await lost.Provider.TakeDownAsync(lost);
                break;
            case 14 when Devices() is { Count: > 0 } all:
                await UseAsync(all[Next(all.Count)]);
                break;
            case 15 when Engine.Functions.FirstOrDefault(f => f.Name == name) is { Now: { Work: ProvisionedFunction.Work.None, Provider: SimProvider provider } } one && !provider.IsAtWork(name):
                await ByNumberAsync(provider, one);
                break;
            default:
                Providers.FindAll(static p => p.IsThere).ForEach(Engine.Return);
                break;
        }
    }

    private void Define(string name)
    {
        var (values, kind, isKept) = (Values(), Chance(2) ? "rail" : "hook", !Chance(4));
        var parent = kind == "rail" ? null : Chance(2) ? "north" : "south";
        var request = Request("define", [name], f => f ?? new Facts("", false, isKept).With(values), () =>
        {
            Engine.Define(name, kind, parent, values.Where(static v => v.Value.Length > 0), isKept);
            return default;
        });
        Require(request.IsCompleted, "a definition waits for something");
    }

    // The provider makes a function, or takes it down, without having been asked by the engine, as a number written to an adapter does.
    private async ValueTask ByNumberAsync(SimProvider provider, ProvisionedFunction function)
    {
        if (function.Device is SimFunction device)
        {
            await RequestAsync("number 0", [function.Name], static f => f is null ? null : f with { IsWanted = false }, () => provider.TakeByNumberAsync(Engine, function, device));
            return;
        }
        if (function.Profile is not { } profile || !profile.IsSet(SimProvider.Tag))
            return;
        var told = Facts.Text(profile.Values);
        await RequestAsync("number 1", [function.Name], f => f is null ? null : f with { IsWanted = true, Values = told }, () => provider.MakeByNumberAsync(Engine, function, profile));
    }

    private async ValueTask UseAsync(SimFunction device)
    {
        Note("open", device.Name);
        device.IsHeld = true;
        for (var i = 0; i < 4; i++)
            await PauseAsync();
        device.IsHeld = false;
    }

    private async ValueTask ReplaceAsync(SimProvider provider)
    {
        if (provider.IsGoing)
            return;
        Note(provider.IsThere ? "go" : "come", provider.ToString());
        if (provider.IsThere)
        {
            foreach (var function in Engine.FunctionsOf(provider))
                Excuse(function.Name);
            await provider.GoAsync(Engine);
            return;
        }
        // What is wanted when it comes has to return, unless what has to be set was taken away meanwhile; then nothing of a set does.
        var all = Engine.Functions.Where(f => f.Kind == provider.Kind && f.Parent == provider.At.Name).ToList();
        var broken = all.FindAll(static f => f.Now.IsWanted && !f.Values.ContainsKey("tag"));
        foreach (var function in all)
            Model(function.Name).IsExcused = provider.ComesTogether ? broken.Count > 0 : broken.Contains(function);
        await provider.ComeAsync(Engine);
    }

    private List<SimFunction> Devices() => [.. Providers.SelectMany(static p => p.Made.Values).Where(static d => d is { IsTold: true, State: DeviceState.Added })];

    private string[] Some(string name) => Chance(3) ? [name, Name(), Name()] : [name];

    // Mostly of one that is defined.
    private string Name() => Engine.Functions is { Count: > 0 } all && Next(6) != 0 ? all[Next(all.Count)].Name : $"f{Next(6)}";

    private KeyValuePair<string, string>[] Values()
    {
        List<KeyValuePair<string, string>> values = [];
        if (Chance(3))
            values.Add(new("count", Chance(6) ? "99" : $"{10 + Next(5)}"));
        if (!Chance(3))
            values.Add(new("tag", Chance(5) ? "" : $"t{Next(3)}"));
        if (Chance(2))
            values.Add(new("level", $"{Next(10)}"));
        if (Chance(20))
            values.Add(new("colour", "red"));
        return [.. values];
    }

    private ValueTask RequestAsync(string what, string[] names, Func<Facts?, Facts?> change, Func<ValueTask> act) => new(Request(what, names, change, act));

    private ValueTask RequestAsync(string what, string[] names, Func<Facts?, Facts?> change, Func<string[], ValueTask> act) => RequestAsync(what, names, change, () => act(names));

    // A request and the model beside it; refused, it changed nothing.
    private async Task Request(string what, string[] names, Func<Facts?, Facts?> change, Func<ValueTask> act)
    {
        Note(what, string.Join(',', names));
        List<NameModel> models = [.. names.Distinct().Select(Model)];
        var begun = models.ConvertAll(m => m.Begin(f => change(f)));
        var succeeded = false;
        // It ends what goes on with others too.
        if (what == "deactivate")
            ExcuseAll();
        // What has to be set may be missing when it should come back.
        if (what == "set")
            Excuse(names[0]);
        try
        {
            await act();
            succeeded = true;
            Note("done", what, string.Join(',', names));
        }
        catch (VirtbusException e)
        {
            Note("refused", e.Errno.ToString(), $"{what} {string.Join(',', names)}: {e.Message}");
        }
        catch (OperationCanceledException) when (what == "activate")
        {
            Note("cancelled");
        }
        for (var i = 0; i < models.Count; i++)
        {
            models[i].End(begun[i], succeeded, succeeded ? null : Leftover(what, models[i].Name));
            if (!models[i].IsIdle)
                continue;
            var actual = FactsOf(models[i].Name);
            _stayed.Remove(models[i].Name);
            var allowed = models[i].Describe();
            Require(models[i].Settle(actual), $"after '{what}' {(succeeded ? "succeeded" : "was refused")} {models[i].Name} is {actual?.ToString() ?? "none"}, but should be {allowed}");
        }
    }

    // What a refusal may leave: of several some are gone, and what its provider would not take or change back is as that says.
    private Func<Facts?, Facts?>? Leftover(string what, string name)
    {
        var stayed = _stayed.GetValueOrDefault(name);
        return what switch
        {
            "deactivate" => static f => f is null ? null : f with { IsWanted = false },
            "activate" when stayed is not null => static f => f is null ? null : f with { IsWanted = true },
            "set" when stayed is not null => f => f is null ? null : f with { Values = stayed },
            _ => null,
        };
    }

    private NameModel Model(string name)
    {
        if (!_names.TryGetValue(name, out var model))
            _names[name] = model = new NameModel(name);
        return model;
    }

    private Facts? FactsOf(string name) =>
        Engine.Functions.FirstOrDefault(f => f.Name == name) is { } function ? new Facts(Facts.Text(function.Profile!.Values), function.Now.IsWanted, function.IsKept) : null;

    // What the engine says, seen between two steps.
    private void CheckEngine()
    {
        foreach (var provider in Providers)
        {
            foreach (var (name, device) in provider.Made)
            {
                if (device.State != DeviceState.Added || !device.IsTold || (provider is { IsThere: false, Keeps: true }))
                    continue;
                var function = Engine.Functions.FirstOrDefault(f => f.Name == name);
                Require(!provider.IsThere || function is not null, $"{device} is there without a definition");
                Require(!provider.IsThere || function!.Now.Work != ProvisionedFunction.Work.None || function.Device == device, $"{device} is there, and {name} is {function!.State}");
            }
            Require(provider.Made.Values.Select(static m => m.Slot).Distinct().Count() == provider.Made.Count, $"two functions are at one place of {provider}");
        }
        foreach (var function in Engine.Functions)
        {
            var (model, now) = (Model(function.Name), function.Now);
            Require((function.Done is null) == (now.Work == ProvisionedFunction.Work.None), $"{function} is at work without an end");
            if (now.Work != ProvisionedFunction.Work.None)
                continue;
            Require(function.Cancel is null, $"{function} can be cancelled, but nothing goes on");
            var device = function.Device as SimFunction;
            Require(device is null || device.State == DeviceState.Added, $"{function} is {function.State} without a device");
            Require(
                device is null || Facts.Text(device.Profile.Values) == Facts.Text(function.Profile!.Values), $"{function} is not what its hardware was told");
            if (!model.IsIdle)
                continue;
            Require(model.Facts == FactsOf(function.Name), $"{function} is {FactsOf(function.Name)}, but should be {model.Facts}");
            var expected = device is not null ? device.IsHeld ? FunctionState.InUse : FunctionState.Active
                : model.Facts!.IsWanted ? now.Failure is null ? FunctionState.Gone : FunctionState.Failed
                : model.Facts.Values.Contains("tag=", StringComparison.Ordinal) ? FunctionState.Configured : FunctionState.Defined;
            Require(function.State == expected, $"{function} is {function.State}, but should be {expected}");
            CheckKept(function, device);
        }
        foreach (var name in Store.Kept.Keys)
            Require(Store.Failed.Contains(name) || !Model(name).IsIdle || Engine.Functions.Any(f => f.Name == name && f.IsKept), $"{name} is kept, but not defined so");
        CheckEvents();
    }

    private void CheckKept(ProvisionedFunction function, SimFunction? device)
    {
        if (!function.IsKept || Store.Failed.Contains(function.Name))
            return;
        Require(Store.Kept.TryGetValue(function.Name, out var kept), $"{function} is not kept");
        if (kept is null)
            return;
        var is_ = new Facts(Facts.Text(kept.Values), kept.IsActive, true);
        Require(is_ == Model(function.Name).Facts, $"{function} is kept as {is_}, but is {Model(function.Name).Facts}");
        Require(device is null || kept.Place == $"slot {device.Slot}", $"{function} is kept at {kept.Place}, but is at {device?.Slot}");
    }

    // Nothing goes on. What was active when its provider came back is there, unless something failed since.
    private void CheckReturned()
    {
        Require(Fabric.WorkCount == 0, "work goes on");
        foreach (var function in Engine.Functions)
        {
            Require(function.Now.Work == ProvisionedFunction.Work.None, $"{function} is at work, but nothing goes on");
            if (function.Now is { IsWanted: true, Provider: { Returns: true } provider } && !Model(function.Name).IsExcused)
                Require(function.Device is not null, $"{function} is not back, but {provider} is");
        }
    }

    private async ValueTask TakeDownAsync()
    {
        IsEnding = true;
        foreach (var provider in Providers)
            await provider.ComeAsync(Engine);
        await Fabric.SettleAsync();
        // In one request, whatever they hang at.
        if (Engine.Functions.Where(static f => f.Now.IsWanted).Select(static f => f.Name).ToArray() is { Length: > 0 } active)
            await RequestAsync("deactivate", active, static f => f is null ? null : f with { IsWanted = false }, names => Engine.DeactivateAsync(names));
        Require(Providers.TrueForAll(static p => p.Made.Count == 0), "functions are left");
        CheckEngine();
        foreach (var function in Engine.Functions.ToList())
            Engine.Undefine(function.Name);
        foreach (var provider in Providers)
            await provider.GoAsync(Engine);
        await Fabric.SettleAsync();
        Require(Engine.Providers.Count == 0, "providers are left");
        Require(Fabric.WorkCount == 0, "work is left");
        Require(Providers.TrueForAll(static p => p.At.Children.Count == 0), "devices are left");
        Store.Kept.Keys.Except(Store.Failed).ToList().ForEach(n => Require(false, $"{n} is kept, but nothing is defined"));
    }

    // Another program, with what the store had when the first was killed.
    private async ValueTask StartAgainAsync(Killed killed)
    {
        (IsRestoring, IsEnding) = (true, true);
        var fabric = new Fabric(new FabricOptions { Scheduler = Scheduler });
        var engine = ProvisioningEngine.Of(fabric);
        List<SimProvider> providers = [];
        await SetUpAsync(fabric, providers, picked: false);
        var store = new SimStore(this, killed.Kept);
        var early = Next(2) == 0;
        if (early)
            engine.Restore(store);
        foreach (var provider in providers)
            await provider.ComeAsync(engine);
        if (!early)
            engine.Restore(store);
        await fabric.SettleAsync();
        foreach (var (name, possible) in killed.Possible)
        {
            var function = engine.Functions.FirstOrDefault(f => f.Name == name);
            Require(function?.Refusal is null, $"{name} is not taken any more: {function?.Refusal}");
            if (killed.Unsure.Contains(name) || function?.Refusal is not null)
                continue;
            var facts = function is null ? null : new Facts(Facts.Text(function.Profile!.Values), function.Now.IsWanted, function.IsKept);
            Require(facts is null || possible.Contains(facts), $"after a kill {name} is {facts}, which is neither the old nor the new");
            Require(facts is not null || possible.Any(static f => f is not { IsKept: true }), $"after a kill {name} is not there");
            // Whose tag was taken away while it was gone can't come.
            Require(facts is not { IsWanted: true } || !function!.Profile!.IsSet(SimProvider.Tag) || function.Device is not null, $"after a kill {name} is {function?.State}");
        }
        foreach (var (name, slot) in killed.Active)
        {
            if (!killed.Unsure.Contains(name))
                Require(engine.Get(name).Device is SimFunction device && device.Slot == slot, $"after a kill {name} is not at slot {slot} again");
        }
        Require(engine.Functions.Select(static f => f.Name).SequenceEqual(killed.Kept.Values.OrderBy(static d => d.Order).Select(static d => d.Name)), "the order is another one");
        if (engine.Functions.Where(static f => f.Now.IsWanted).Select(static f => f.Name).ToList() is { Count: > 0 } active)
            await engine.DeactivateAsync(active);
        foreach (var function in engine.Functions.ToList())
            engine.Undefine(function.Name);
        Require(store.Kept.Count == 0 && providers.TrueForAll(static p => p.Made.Count == 0), "something is left of the second program");
    }

    private sealed record Killed(
        Dictionary<string, StoredDefinition> Kept, Dictionary<string, HashSet<Facts?>> Possible, HashSet<string> Unsure, List<(string Name, int Slot)> Active);
}
