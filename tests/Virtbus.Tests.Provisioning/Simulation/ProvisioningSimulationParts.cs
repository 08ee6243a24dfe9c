using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Tests.Provisioning.Simulation;

/// <summary>A function on its bus.</summary>
internal sealed class SimFunction(string name, SimProvider provider, FunctionProfile profile, int slot, Bus bus) : Device(name, provider.At, bus), IUserHeld
{
    public SimProvider Provider { get; set; } = provider;

    /// <summary>What its hardware was told.</summary>
    public FunctionProfile Profile { get; set; } = profile;

    public int Slot { get; } = slot;

    /// <summary>Whether its provider has said that it is made.</summary>
    public bool IsTold { get; set; }

    public bool IsHeld { get; set; }
}

internal sealed record SimFunctionId() : DeviceId(0);

internal sealed class SimFunctionBus(string name) : Bus(name)
{
    public override DeviceId? Match(IDeviceIdentity device, Driver driver) => new SimFunctionId();
}

/// <summary>Takes functions, or fails; sees finished ones alone.</summary>
internal sealed class SimFunctionDriver(ProvisioningSimulation sim, Bus bus) : Driver("taker")
{
    public override Bus Bus { get; } = bus;

    protected internal override async ValueTask ProbeAsync(Device device, DeviceId id, CancellationToken cancellationToken)
    {
        var function = (SimFunction)device;
        sim.Require(function.Profile.IsSet(SimProvider.Tag), $"{device} is probed before it is whole");
        var told = Facts.Text(function.Profile.Values);
        await sim.PauseAsync();
        sim.Require(told == Facts.Text(function.Profile.Values) || function.IsTold, $"{device} changes while it is probed");
        if (sim.Chance(10))
            throw new VirtbusException(Errno.EIO, "no answer");
    }
}

/// <summary>Keeps definitions in memory, fails at times, and is what a SIGKILL leaves.</summary>
internal sealed class SimStore(ProvisioningSimulation sim, IReadOnlyDictionary<string, StoredDefinition> kept) : IDefinitionStore
{
    public Dictionary<string, StoredDefinition> Kept { get; } = new(kept);

    /// <summary>What the engine could not write when it last tried: it may be behind.</summary>
    public HashSet<string> Failed { get; } = [];

    public IReadOnlyList<StoredDefinition> Load() => [.. Kept.Values.OrderBy(static d => d.Order)];

    public void Save(StoredDefinition definition) => Do(definition.Name, () => Kept[definition.Name] = definition);

    public void Remove(string name) => Do(name, () => Kept.Remove(name));

    private void Do(string name, Action change)
    {
        sim.MayDie(this);
        if (sim.Chance(12))
        {
            // As when it is written and only its durability is not sure.
            if (sim.Chance(3))
                change();
            Failed.Add(name);
            sim.ExcuseAll();
            throw new VirtbusException(Errno.ENOSPC, "no room");
        }
        Failed.Remove(name);
        change();
        sim.MayDie(this);
    }
}

/// <summary>Makes functions in slots below a device; fails, waits, goes with what it makes, comes back.</summary>
internal sealed class SimProvider(ProvisioningSimulation sim, Fabric fabric, SimFunctionBus bus, Device at, string kind, bool returns, bool together, bool keeps) : FunctionProvider
{
    public static readonly ProfileField<int> Count = ProfileFields.Number("count", "screws", 1, 16, standard: 4);
    public static readonly ProfileField<string> Tag = ProfileFields.Text("tag", "a word", isRequired: true);
    public static readonly ProfileField<int> Level = ProfileFields.Number("level", "turns", 0, 9, change: FieldChange.WhileActive);
    private static readonly ProfileField[] All = [Count, Tag, Level];
    private readonly HashSet<string> _worked = [];
    // Of these, what the engine did not ask for.
    private readonly HashSet<string> _numbered = [];
    private int _generation;

    public Device At => at;

    /// <summary>Whether it is the engine's.</summary>
    public bool IsThere { get; private set; }

    /// <summary>Whether it takes down what it made: a driver is bound again when that has ended.</summary>
    public bool IsGoing { get; private set; }

    /// <summary>Its functions stay when it goes, and are its own again when it is back.</summary>
    public bool Keeps => keeps;

    public Dictionary<string, SimFunction> Made { get; } = [];

    public override string Kind => kind;

    public override IReadOnlyList<string> Parents => [at.Name, at.DevPath];

    public override IReadOnlyList<ProfileField> Fields => All;

    public override bool Returns => returns;

    public override bool ComesTogether => together;

    public override void Check(FunctionProfile profile)
    {
        if (profile.Get(Count) == 13)
            throw new VirtbusException(Errno.EINVAL, "count 13 is not right.");
        if (!sim.IsRestoring && sim.Chance(20))
            throw new VirtbusException(Errno.EINVAL, "not this one.");
    }

    public override async ValueTask<IReadOnlyList<Device>> ActivateAsync(IReadOnlyList<FunctionProfile> profiles, CancellationToken cancellationToken)
    {
        sim.Require(IsThere, $"{this} is asked for functions after it was removed");
        var generation = _generation;
        var made = new List<SimFunction>();
        await WaitForNumberAsync(profiles);
        if (_generation != generation)
            throw new VirtbusException(Errno.ENODEV, "went meanwhile");
        if (profiles.FirstOrDefault(p => Made.GetValueOrDefault(p.Name)?.State == DeviceState.Added) is { } there)
            throw new VirtbusException(Errno.EBUSY, $"{there.Name} came by a number");
        Enter("make", profiles);
        try
        {
            foreach (var profile in profiles)
            {
                await sim.PauseAsync();
                if (sim.Chance(2))
                    cancellationToken.ThrowIfCancellationRequested();
                if (sim.Chance(12))
                    throw new VirtbusException(Errno.EIO, "no answer");
                sim.Require(Made.GetValueOrDefault(profile.Name)?.State != DeviceState.Added, $"{profile.Name} is made twice");
                var device = new SimFunction(NameFor(profile), this, profile, SlotFor(profile), bus);
                // Before anything sees it, as whatever takes a slot has to.
                Made[profile.Name] = device;
                try
                {
                    await fabric.RegisterAsync(device);
                }
                catch
                {
                    Forget(device);
                    throw;
                }
                made.Add(device);
                await sim.PauseAsync();
                if (_generation != generation)
                    throw new VirtbusException(Errno.ENODEV, "went meanwhile");
            }
            made.ForEach(static m => m.IsTold = true);
            return made;
        }
        catch
        {
            foreach (var profile in profiles)
                sim.Excuse(profile.Name);
            made.Reverse();
            foreach (var device in made)
                await TakeDownAsync(device);
            throw;
        }
        finally
        {
            Leave(profiles);
        }
    }

    public override async ValueTask DeactivateAsync(IReadOnlyList<(FunctionProfile Profile, Device Device)> functions)
    {
        List<FunctionProfile> profiles = [.. functions.Select(static f => f.Profile)];
        await WaitForNumberAsync(profiles);
        Enter("take down", profiles);
        try
        {
            foreach (var (profile, device) in functions.Reverse())
            {
                sim.Require(((SimFunction)device).Profile.Name == profile.Name, $"{device} is deactivated as {profile.Name}");
                while (((SimFunction)device).IsHeld && device.State == DeviceState.Added)
                    await Task.Yield();
                if (sim.Chance(10))
                {
                    profiles.ForEach(sim.Stays);
                    throw new VirtbusException(Errno.EBUSY, "stays");
                }
                if (device.State == DeviceState.Added)
                    await TakeDownAsync((SimFunction)device);
            }
        }
        finally
        {
            Leave(profiles);
        }
    }

    public override async ValueTask ChangeAsync(FunctionProfile before, FunctionProfile after, Device device)
    {
        await WaitForNumberAsync([before]);
        Enter("change", [before]);
        try
        {
            await sim.PauseAsync();
            if (sim.Chance(8))
            {
                sim.Stays(before);
                throw new VirtbusException(Errno.EIO, "no answer");
            }
            ((SimFunction)device).Profile = after;
        }
        finally
        {
            Leave([before]);
        }
    }

    public override string? PlaceOf(Device device) => $"slot {((SimFunction)device).Slot}";

    public bool IsAtWork(string name) => _worked.Contains(name);

    /// <summary>Makes a function on its own account, and says so.</summary>
    public async ValueTask MakeByNumberAsync(ProvisioningEngine engine, ProvisionedFunction function, FunctionProfile profile)
    {
        var generation = _generation;
        if (Made.ContainsKey(profile.Name))
            throw new VirtbusException(Errno.EBUSY, "is there");
        var device = new SimFunction(profile.Name, this, profile, SlotFor(profile.At(function.Place)), bus);
        Made[profile.Name] = device;
        Enter("number 1", [profile]);
        _numbered.Add(profile.Name);
        try
        {
            await fabric.RegisterAsync(device);
            await sim.PauseAsync();
            // Nobody is left who would be told.
            if (_generation != generation || function.IsForgotten || device.State != DeviceState.Added)
                throw new VirtbusException(Errno.ENODEV, "went meanwhile");
            device.IsTold = true;
            if (sim.IsNoted)
                engine.NoteActive(function, device, profile);
        }
        catch
        {
            if (device.State == DeviceState.Added)
                await fabric.DeleteAsync(device);
            Forget(device);
            throw;
        }
        finally
        {
            _numbered.Remove(profile.Name);
            Leave([profile]);
        }
    }

    /// <summary>Takes a function down on its own account, and says so.</summary>
    public async ValueTask TakeByNumberAsync(ProvisioningEngine engine, ProvisionedFunction function, SimFunction device)
    {
        Enter("number 0", [device.Profile]);
        _numbered.Add(function.Name);
        try
        {
            if (sim.IsNoted)
                engine.NoteInactive(function);
            await TakeDownAsync(device);
            if (sim.IsNoted)
                engine.NoteInactive(function);
        }
        finally
        {
            _numbered.Remove(function.Name);
            Leave([device.Profile]);
        }
    }

    /// <summary>It comes: without those that it kept and nobody has active.</summary>
    public async ValueTask ComeAsync(ProvisioningEngine engine)
    {
        while (Made.Values.FirstOrDefault(m => m.IsTold && !engine.Functions.Any(f => f.Name == m.Profile.Name && f.Now.Device == m && f.Now.IsWanted)) is { } idle)
            await TakeDownAsync(idle);
        if (IsThere)
            return;
        IsThere = true;
        engine.AddProvider(this);
    }

    public async ValueTask GoAsync(ProvisioningEngine engine)
    {
        if (!IsThere)
            return;
        IsThere = false;
        _generation++;
        engine.RemoveProvider(this);
        if (keeps)
            return;
        IsGoing = true;
        foreach (var device in Made.Values.Where(static m => m.IsTold).ToList())
        {
            await TakeDownAsync(device);
            await sim.PauseAsync();
        }
        IsGoing = false;
    }

    public async ValueTask TakeDownAsync(SimFunction device)
    {
        await fabric.DeleteAsync(device);
        Forget(device);
    }

    public override string ToString() => $"{kind}@{at.Name}";

    // A name that is taken fails the add of the device.
    private string NameFor(FunctionProfile profile) => sim.Chance(15) && Made.Values.FirstOrDefault(static m => m.State == DeviceState.Added) is { } other ? other.Name : profile.Name;

    private int SlotFor(FunctionProfile profile)
    {
        var used = Made.Values.Select(static m => m.Slot).ToHashSet();
        if (profile.Place is { } place && int.Parse(place["slot ".Length..], null) is var slot && !used.Contains(slot))
            return slot;
        // Those that are gone come back to theirs.
        used.UnionWith(ProvisioningEngine.Of(fabric).FunctionsOf(this)
            .Where(static f => f is { IsAwaited: true, Place: not null }).Select(static f => int.Parse(f.Place!["slot ".Length..], null)));
        return Enumerable.Range(0, used.Count + 1).First(i => !used.Contains(i));
    }

    // Another one may have come under that name when somebody else took this one down meanwhile.
    private void Forget(SimFunction device)
    {
        if (Made.GetValueOrDefault(device.Profile.Name) == device)
            Made.Remove(device.Profile.Name);
    }

    // As a device's transition makes whoever comes second wait.
    private async ValueTask WaitForNumberAsync(IReadOnlyList<FunctionProfile> profiles)
    {
        while (profiles.Any(p => _numbered.Contains(p.Name)))
            await Task.Yield();
    }

    private void Enter(string what, IReadOnlyList<FunctionProfile> profiles)
    {
        sim.Tell(what, string.Join(',', profiles.Select(static p => p.Name)));
        foreach (var profile in profiles)
            sim.Require(_worked.Add(profile.Name), $"two things are done with {profile.Name} at once");
    }

    private void Leave(IReadOnlyList<FunctionProfile> profiles)
    {
        sim.Tell("end of", string.Join(',', profiles.Select(static p => p.Name)));
        foreach (var profile in profiles)
            _worked.Remove(profile.Name);
    }
}
