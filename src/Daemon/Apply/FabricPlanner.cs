using System.Globalization;
using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Daemon.Manifest;
using Virtbus.Daemon.Provisioning;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Daemon.Apply;

/// <summary>
/// Compares a running fabric with a manifest. Functions that were defined to last are not the manifest's matter and stay. What is changed in a point that
/// can't change while it is there is taken away and made again; the virtual functions of an adapter as the one set that they are.
/// </summary>
internal sealed class FabricPlanner(ProvisioningEngine engine, FabricHardware hardware, DeviceGroups groups, Func<CancellationToken, Task> settle)
{
    private const string Virtual = ManifestFunction.VirtualFunction;
    private static readonly string[] Kinds = [Virtual, DiskFunctions.KindName, SerialFunctions.KindName, VirtioFunctions.KindName, ManifestFunction.Plugged];

    /// <summary>Makes the plan.</summary>
    /// <param name="before">What the fabric was made from.</param>
    /// <param name="after">What it is to be.</param>
    /// <exception cref="VirtbusException">EBUSY: the manifest asks for what can't change while the fabric runs; EINVAL: for a name or a number that is taken by what lasts.</exception>
    public FabricPlan Plan(FabricManifest before, FabricManifest after)
    {
        if (!before.Modules.HasFoldersOf(after.Modules))
        {
            throw new VirtbusException(
                Errno.EBUSY, $"{after.File}: the folder of modules is {before.Modules.FolderText} while the fabric runs, not {after.Modules.FolderText}. Take the fabric down, and up with this manifest.");
        }

        if (PlanCheck.Find(after, engine, hardware.Bus) is { Count: > 0 } errors)
            throw new ManifestException(after.File, errors);
        if (FunctionSet.FindConflicts(after, [.. engine.Functions.Where(static f => !IsManifests(f))], stateFolder: null) is { Count: > 0 } conflicts)
            throw new ManifestException(after.File, conflicts);
        var plan = new FabricPlan();
        PlanModules(plan, after);
        PlanSwitches(plan, after);
        var renewed = PlanAdapters(plan, after);
        PlanFunctions(plan, after, renewed);
        PlanGroups(plan, after, renewed);
        PlanJoins(plan, after);
        return plan;
    }

    // One that is named no more stays: something else may have come to use it.
    private void PlanModules(FabricPlan plan, FabricManifest after)
    {
        if (engine.Modules is not { } loader)
            return;
        foreach (var name in after.Modules.Names.Select(static n => n.Value).Where(n => loader.Loaded.All(l => l.Info.Name != ModuleName.Of(n) && l.Info.Name != n)))
        {
            plan.Say('+', $"module {name}");
            plan.Make($"module {name}", _ => new ValueTask(loader.LoadAsync(name)));
        }
    }

    private void PlanSwitches(FabricPlan plan, FabricManifest after)
    {
        foreach (var there in hardware.Switches.All)
        {
            string name = there.Name;
            var wanted = after.Switches.FirstOrDefault(s => s.Name == name);
            if (wanted?.Text == there.Text)
                continue;
            plan.Say(wanted is null ? '-' : '~', $"switch {name}: {there.Text}{(wanted is null ? "" : $" -> {wanted.Text}")}");
            plan.TakeAway($"switch {name}", _ =>
            {
                hardware.Switches.Remove(name);
                return default;
            });
        }

        foreach (var wanted in after.Switches)
        {
            var there = hardware.Switches.All.FirstOrDefault(s => s.Name == wanted.Name);
            if (there is null)
                plan.Say('+', $"switch {wanted.Name}: {wanted.Text}");
            if (there?.Text != wanted.Text)
                plan.Make($"switch {wanted.Name}", _ => hardware.AddSwitchAsync(wanted));
        }
    }

    // What goes is taken away before all else, what comes when all else is there.
    private void PlanJoins(FabricPlan plan, FabricManifest after)
    {
        foreach (var (there, _) in hardware.Joins.All)
        {
            var wanted = after.Joins.FirstOrDefault(j => j.Join.Interface == there.Interface)?.Join;
            if (wanted == there)
                continue;
            plan.Say(wanted is null ? '-' : '~', $"join of {there.Interface}: {there.Text}{(wanted is null ? "" : $" -> {wanted.Text}")}");
            plan.TakeAway($"join of {there.Interface}", _ => hardware.Joins.RemoveAsync(there.Interface));
        }

        foreach (var wanted in after.Joins.Select(static j => j.Join))
        {
            var there = hardware.Joins.All.FirstOrDefault(j => j.Join.Interface == wanted.Interface).Join;
            if (there is null)
                plan.Say('+', $"join of {wanted.Interface}: {wanted.Text}");
            if (there != wanted)
                plan.Make($"join of {wanted.Interface}", _ => hardware.Joins.AddAsync(wanted, mustBeThere: false));
        }
    }

    // The adapters that go, or go and come: what hangs at them does too.
    private HashSet<string> PlanAdapters(FabricPlan plan, FabricManifest after)
    {
        var renewed = new HashSet<string>();
        foreach (var there in hardware.Adapters)
        {
            string name = there.Name;
            var wanted = after.Adapters.FirstOrDefault(a => a.Name == name);
            if (wanted is not null && Describe(wanted) == Describe(there))
                continue;
            renewed.Add(name);
            if (wanted is null)
                plan.Say('-', $"adapter {name}");
            else
                plan.Say('~', $"adapter {name}: {Describe(there)} -> {Describe(wanted)}; made again, with all that is on it");
        }

        foreach (var wanted in after.Adapters)
        {
            string name = wanted.Name;
            var isThere = hardware.Adapters.Any(a => a.Name == name);
            if (!isThere)
                plan.Say('+', $"adapter {name}: {Describe(wanted)}");
            if (!isThere || renewed.Contains(name))
                plan.Make($"adapter {name}", async cancel =>
                {
                    await hardware.AddAdapterAsync(wanted);
                    // Its drivers are loaded by its alias, beside us.
                    await settle(cancel);
                });
        }

        return renewed;
    }

    private void PlanFunctions(FabricPlan plan, FabricManifest after, HashSet<string> renewed)
    {
        var there = engine.Functions.Where(IsManifests).ToList();
        var sets = FunctionSet.Of(after, engine);
        var wanted = sets.SelectMany(static s => s.Functions).ToList();
        var setsToRenew = SetsToRenew(there, sets, renewed);
        if (engine.Functions.Where(static f => f.IsKept && f.Kind == Virtual && f.Device is not null).FirstOrDefault(f => setsToRenew.Contains(f.Parent!) || renewed.Contains(f.Parent!)) is { Parent: { } lasting })
        {
            throw new VirtbusException(
                Errno.EBUSY, $"{after.File}: the virtual functions of {lasting} would be made again, and {Lasting(f => f.Kind == Virtual && f.Parent == lasting)}. They go together: deactivate all of them first.");
        }

        if (renewed.FirstOrDefault(name => Lasting(f => IsOn(f, name)).Length > 0) is { } leaving)
        {
            throw new VirtbusException(
                Errno.EBUSY, $"{after.File}: adapter {leaving} would be taken away with all that is on it, and {Lasting(f => IsOn(f, leaving))}. What lasts is not the manifest's matter: deactivate it first.");
        }

        foreach (var function in Enumerable.Reverse(there))
        {
            var next = wanted.Find(w => w.Name == function.Name);
            if (next is null)
                plan.Say('-', Title(function) + WhenFree(function));
            if (next is null || IsRenewed(function, next, renewed, setsToRenew))
            {
                // A set goes by one call, made for its last function, which is the first one here.
                if (function.Kind != Virtual)
                    plan.TakeAway(Title(function), cancel => TakeAwayAsync([function], cancel));
                else if (there.FindLast(f => f.Kind == Virtual && f.Parent == function.Parent) == function)
                    plan.TakeAway($"virtual functions of {function.Parent}", cancel => TakeAwayAsync([.. there.Where(f => f.Kind == Virtual && f.Parent == function.Parent)], cancel));
            }
        }

        foreach (var name in renewed)
            plan.TakeAway($"adapter {name}", _ => hardware.RemoveAdapterAsync(name));
        foreach (var set in sets)
        {
            if (set.Adapter is null)
                PlanSingle(plan, set, there, renewed, setsToRenew);
            else if (setsToRenew.Contains(set.Adapter) || renewed.Contains(set.Adapter))
                PlanSet(plan, set, there);
        }
    }

    private void PlanSet(FabricPlan plan, FunctionSet set, List<ProvisionedFunction> there)
    {
        foreach (var function in set.Functions)
            plan.Say(there.Exists(f => f.Name == function.Name) ? '~' : '+', Title(function) + (there.Find(f => f.Name == function.Name) is { } now ? WhenFree(now) : ""));
        foreach (var function in set.Lasting)
            plan.Say('+', $"{Title(function)}, which was defined to last");
        plan.Make($"virtual functions of {set.Adapter}", cancel => set.MakeAsync(engine, cancel));
    }

    private void PlanSingle(FabricPlan plan, FunctionSet set, List<ProvisionedFunction> there, HashSet<string> renewed, HashSet<string> setsToRenew)
    {
        var next = set.Functions[0];
        var now = there.Find(f => f.Name == next.Name);
        if (now is null)
            plan.Say('+', next.Title);
        else if (IsRenewed(now, next, renewed, setsToRenew))
            plan.Say('~', $"{next.Title}: {(Difference(now, next) is { Length: > 0 } changed ? changed + "; made again" : $"made again with adapter {now.Parent}")}{WhenFree(now)}");
        else if (now.Device is null)
            plan.Say('+', $"{next.Title}, which is not active");
        else if (Difference(now, next) is { Length: > 0 } difference)
            plan.Say('~', $"{next.Title}: {difference}");
        else
            return;
        plan.Make(next.Title, cancel => MakeAsync(set, cancel));
    }

    private async ValueTask MakeAsync(FunctionSet set, CancellationToken cancellationToken)
    {
        var next = set.Functions[0];
        if (engine.Functions.FirstOrDefault(f => f.Name == next.Name) is not { IsKept: false, Profile: { } profile } there)
        {
            await set.MakeAsync(engine, cancellationToken);
            return;
        }

        var wanted = next.Values.ToDictionary();
        foreach (var (key, _) in profile.Values)
            wanted.TryAdd(key, "");
        await engine.SetAsync(next.Name, wanted);
        if (there.Device is null)
            await set.ActivateAsync(engine, cancellationToken);
    }

    // Those that were planned for: a step before this one may have waited long, and a name can be another function's by now.
    private async ValueTask TakeAwayAsync(IReadOnlyList<ProvisionedFunction> functions, CancellationToken cancellationToken)
    {
        string[] active = [.. functions.Where(f => engine.Functions.Contains(f) && (f.Device is not null || f.IsAwaited)).Select(static f => f.Name)];
        if (active.Length > 0)
            await engine.DeactivateAsync(active, cancellationToken);
        // Those that nobody defined are gone with that.
        foreach (var function in functions.Where(f => engine.Functions.Contains(f)))
            engine.Undefine(function.Name);
    }

    private void PlanGroups(FabricPlan plan, FabricManifest after, HashSet<string> renewed)
    {
        foreach (var (key, group) in groups.All)
        {
            var next = after.Devices.FirstOrDefault(d => DeviceGroups.KeyOf(d) == key);
            var isLost = group.Parent is { } parent && renewed.Contains(parent);
            if (next is not null && next.Count.Value == group.Count.Value && next.Parent?.Value == group.Parent?.Value && !isLost)
                continue;
            plan.Say(next is null ? '-' : '~', $"{group.Count} devices {key}{(next is null ? "" : $" -> {next.Count}; made again")}");
            plan.TakeAway($"devices {key}", _ => groups.RemoveAsync(key));
        }

        foreach (var next in after.Devices)
        {
            var key = DeviceGroups.KeyOf(next);
            var there = groups.All.FirstOrDefault(g => g.Key == key).Group;
            if (there is null)
                plan.Say('+', $"{next.Count} devices {key}");
            if (there is null || next.Count.Value != there.Count.Value || next.Parent?.Value != there.Parent?.Value || (there.Parent is { } parent && renewed.Contains(parent)))
                plan.Make($"devices {key}", cancel => groups.AddAsync(next, next.Parent is { } above ? hardware.DeviceOf(above) : null, static _ => { }, cancel));
        }
    }

    // Adapters and functions whose set of virtual functions is to be another one, or has to go with them.
    private HashSet<string> SetsToRenew(List<ProvisionedFunction> there, IReadOnlyList<FunctionSet> sets, HashSet<string> renewed)
    {
        var wanted = sets.SelectMany(static s => s.Functions).ToList();
        HashSet<string> madeAgain = [.. there.Where(f => f.Kind != Virtual && (wanted.Find(w => w.Name == f.Name) is not { } next || IsRenewed(f, next, renewed, []))).Select(static f => f.Name)];
        return
        [
            .. there.Where(f => f.Kind == Virtual && madeAgain.Contains(f.Parent!)).Select(static f => f.Parent!),
            .. there.Where(f => f.Kind == Virtual && wanted.Find(w => w.Name == f.Name) is var next && (next is null || f.Device is null || Difference(f, next).Length > 0)).Select(static f => f.Parent!),
            .. wanted.Where(w => w.Kind == Virtual && !renewed.Contains(w.Parent!) && !there.Exists(f => f.Name == w.Name)).Select(static w => w.Parent!),
            .. sets.Where(static s => s.Lasting.Any(static f => f.Device is null)).Select(static s => s.Adapter!),
        ];
    }

    // What is not kept and of a kind that manifests name: the manifest says what there is of it.
    private static bool IsManifests(ProvisionedFunction function) => !function.IsKept && Kinds.Contains(function.Kind);

    private bool IsRenewed(ProvisionedFunction now, ManifestFunction next, HashSet<string> renewed, HashSet<string> setsToRenew)
    {
        if (now.Kind != next.Kind || now.Parent != next.Parent || (now.Parent is { } parent && renewed.Contains(parent)))
            return true;
        if (now.Kind == Virtual)
            return setsToRenew.Contains(now.Parent!);
        return now.Device is not null && Changed(now, next).Any(static f => f.Change == FieldChange.BeforeActivation);
    }

    private IEnumerable<ProfileField> Changed(ProvisionedFunction now, ManifestFunction next)
    {
        if (ProviderOf(now) is not { } provider || now.Profile is not { } profile)
            return [];
        var after = FunctionProfile.Parse(next.Kind, next.Name, provider.Fields, next.Values);
        return provider.Fields.Where(f => TextOf(provider, profile, f) != TextOf(provider, after, f));
    }

    private string Difference(ProvisionedFunction now, ManifestFunction next)
    {
        if (now.Kind != next.Kind || now.Parent != next.Parent)
            return $"{now.Kind} at {now.Parent ?? "nothing"} -> {next.Kind} at {next.Parent ?? "nothing"}";
        if (ProviderOf(now) is not { } provider || now.Profile is not { } before)
            return "";
        var after = FunctionProfile.Parse(next.Kind, next.Name, provider.Fields, next.Values);
        return string.Join(", ", Changed(now, next).Select(f => $"{f.Name} {TextOf(provider, before, f) ?? "not set"} -> {TextOf(provider, after, f) ?? "not set"}"));
    }

    // What it is, whether somebody said so or nobody said otherwise.
    private static string? TextOf(FunctionProvider provider, FunctionProfile profile, ProfileField field) =>
        profile.Values.FirstOrDefault(v => v.Key == field.Name).Value ?? provider.DescribeStandard(profile, field);

    private FunctionProvider? ProviderOf(ProvisionedFunction function) =>
        engine.Providers.FirstOrDefault(p => p.Kind == function.Kind && (function.Parent is null ? p.Parents.Count == 0 : p.Parents.Contains(function.Parent)));

    private string Lasting(Func<ProvisionedFunction, bool> isMeant) => engine.Functions.Where(f => f.IsKept && f.Device is not null && isMeant(f)).Select(static f => $"'{f.Name}'").ToList() switch
    {
        [] => "",
        [var one] => $"{one}, which was defined to last, is one of them",
        var all => $"{string.Join(", ", all.Take(4))}{(all.Count > 4 ? " …" : "")}, which were defined to last, are among them",
    };

    // On the adapter or on one of its virtual functions.
    private bool IsOn(ProvisionedFunction function, string adapter)
    {
        var hardwareOf = hardware.FindDevice(adapter);
        if (hardwareOf is null)
            return false;
        for (var at = function.Device; at is not null; at = at.Parent)
        {
            if (at == hardwareOf || (at as PciDevice)?.PhysicalFunction == hardwareOf)
                return true;
        }

        return false;
    }

    private static string WhenFree(ProvisionedFunction function) => function.State == FunctionState.InUse ? ", when it is let go: it is in use" : "";

    private static string Title(ProvisionedFunction function) => function.Kind switch
    {
        Virtual => $"virtual function {function.Name}",
        DiskFunctions.KindName => $"disk {function.Name} on {function.Parent}",
        SerialFunctions.KindName => $"serial port {function.Name}",
        _ => $"function {function.Name}",
    };

    private static string Title(ManifestFunction function) =>
        $"virtual function {function.Name}{string.Concat(function.Values.Where(static v => v.Key != "index").Select(static v => $" {v.Key}={v.Value}"))}";

    private static string Describe(AdapterManifest adapter) =>
        $"{adapter.Model.Value.ToString().ToLowerInvariant()}, {adapter.Parts.Value.ToString().ToLowerInvariant()}, {adapter.Ports} port{(adapter.Ports.Value == 1 ? "" : "s")}{(adapter.Mac is { } mac ? $", mac {MacText.Of(mac)}" : "")}{(adapter.Tap is { } tap ? $", tap {tap}" : "")}{(adapter.Switch is { } place ? $", switch {place}" : "")}";
}
