using Virtbus.Daemon.Manifest;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Daemon.Apply;

/// <summary>Functions of a manifest that come together: the virtual functions of an adapter, of all else one each.</summary>
/// <param name="At">What it comes from, for who has to be told.</param>
/// <param name="Title">What is made, in a few words.</param>
/// <param name="Adapter">The adapter or the function that they are of, of virtual functions; else null.</param>
/// <param name="Functions">Those that the manifest defines.</param>
/// <param name="Lasting">Virtual functions that the manifest counts and that were defined to last: the manifest does not define those.</param>
/// <param name="Returning">Others of the adapter that were defined to last and are to come back: PCI enables all at once, so they come with these or not at all.</param>
internal sealed record FunctionSet(
    ManifestValue<string> At,
    string Title,
    string? Adapter,
    IReadOnlyList<ManifestFunction> Functions,
    IReadOnlyList<ProvisionedFunction> Lasting,
    IReadOnlyList<ProvisionedFunction> Returning)
{
    /// <summary>Whether they are the virtual functions of a function: they can be defined when that one is there.</summary>
    public bool IsOfFunction { get; private init; }

    /// <summary>The sets of a manifest, in the order in which they are made.</summary>
    /// <param name="manifest">The manifest.</param>
    /// <param name="engine">What lasts is defined there.</param>
    public static IReadOnlyList<FunctionSet> Of(FabricManifest manifest, ProvisioningEngine engine)
    {
        var sets = new List<FunctionSet>();
        foreach (var group in manifest.AllFunctions().GroupBy(static f => (IsVirtual: f.Kind == ManifestFunction.VirtualFunction, Name: f.Kind == ManifestFunction.VirtualFunction ? f.Parent! : f.Name.Value)))
        {
            var functions = group.ToList();
            if (functions[0] is not { Kind: ManifestFunction.VirtualFunction, Parent: { } adapter } first)
            {
                sets.Add(new FunctionSet(functions[0].Name, functions[0].Title, null, functions, [], []));
                continue;
            }

            var lasting = LastingOf(engine, adapter).ToLookup(f => functions.Exists(w => Indexes(w, f)));
            sets.Add(new FunctionSet(
                first.Name,
                first.Title,
                adapter,
                [.. functions.Where(w => !lasting[true].Any(f => Indexes(w, f)))],
                [.. lasting[true]],
                [.. lasting[false].Where(static f => f.IsAwaited)])
            {
                IsOfFunction = manifest.Functions.Any(f => f.Name == adapter),
            });
        }

        return sets;
    }

    /// <summary>What can't be made beside what lasts: names that are taken, and virtual functions that are to be something else.</summary>
    /// <param name="manifest">The manifest.</param>
    /// <param name="lasting">The functions that are not the manifest's and stay.</param>
    /// <param name="stateFolder">Where the definitions are, when no fabric runs in which one could be undefined; else null.</param>
    public static IReadOnlyList<ManifestError> FindConflicts(FabricManifest manifest, IReadOnlyList<ProvisionedFunction> lasting, string? stateFolder)
    {
        if (lasting.Count == 0)
            return [];
        var errors = new List<ManifestError>();
        var byName = lasting.ToDictionary(static f => f.Name);
        foreach (var adapter in manifest.Adapters)
            RefuseName(adapter.Name, adapter.Name);
        foreach (var wanted in manifest.AllFunctions())
        {
            if (lasting.FirstOrDefault(f => Indexes(wanted, f)) is not { } there)
                RefuseName(wanted.Name, wanted.Name);
            else if (wanted.IsSaid)
                errors.Add(new ManifestError(wanted.At, wanted.Path, $"this virtual function of {wanted.Parent} is '{there.Name}', which was defined to last over the end of the program. Remove its profile here, or undefine that one.{Remedy(there.Name)}"));
        }

        foreach (var group in manifest.Devices)
        {
            if (group.Parent is null)
                RefuseName(group.Module, group.Module);
            foreach (var function in lasting.Where(f => Provisioning.DeviceGroups.IsIn(group, f.Name)))
                RefuseName(group.Name, function.Name);
        }

        return [.. errors.OrderBy(static e => e.At.Line).ThenBy(static e => e.At.Column)];

        void RefuseName(ManifestValue<string> at, string name)
        {
            if (byName.TryGetValue(name, out var function))
                errors.Add(new ManifestError(at.At, at.Path, $"'{name}' is a function that was defined {(function.IsKept ? "to last over the end of the program" : "by somebody")}. Choose another name, or undefine that one.{Remedy(name)}"));
        }

        string Remedy(string name) => stateFolder is null ? "" : $" While no fabric runs, remove {Path.Combine(stateFolder, name + ".json")}.";
    }

    /// <summary>Defines what the manifest says of it and makes all of it.</summary>
    public async ValueTask MakeAsync(ProvisioningEngine engine, CancellationToken cancellationToken)
    {
        foreach (var function in Functions)
            function.DefineIn(engine);
        await ActivateAsync(engine, cancellationToken);
    }

    /// <summary>Makes all of it, when what the manifest says of it is defined.</summary>
    public async ValueTask ActivateAsync(ProvisioningEngine engine, CancellationToken cancellationToken)
    {
        string[] names = [.. Functions.Select(static f => f.Name.Value), .. Lasting.Select(static f => f.Name)];
        try
        {
            await engine.ActivateAsync([.. names, .. Returning.Select(static f => f.Name)], cancellationToken);
        }
        catch (VirtbusException) when (Returning.Count > 0)
        {
            // What is not the manifest's and can't come does not keep the manifest's away.
            await engine.ActivateAsync(names, cancellationToken);
        }
    }

    private static IEnumerable<ProvisionedFunction> LastingOf(ProvisioningEngine engine, string adapter) =>
        engine.Functions.Where(f => f is { IsKept: true, Kind: ManifestFunction.VirtualFunction } && f.Parent == adapter);

    private static bool Indexes(ManifestFunction wanted, ProvisionedFunction function) =>
        function is { IsKept: true, Kind: ManifestFunction.VirtualFunction } && wanted.Kind == function.Kind && wanted.Parent == function.Parent
            && function.Values.GetValueOrDefault(ManifestFunction.Index) == wanted.Values.FirstOrDefault(static v => v.Key == ManifestFunction.Index).Value;
}
