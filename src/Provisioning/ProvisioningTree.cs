using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Provisioning;

/// <summary>
/// The engine in the tree, as Linux's configfs has such things: <c>/kernel/config/functions/NAME</c> with a file for each attribute and <c>live</c>,
/// which is 1 while the function is active. What makes a directory there is <c>define</c>.
/// </summary>
internal static class ProvisioningTree
{
    private const string Place = "/kernel/config";

    private static readonly ObjectAttribute<ProvisioningEngine>[] Controls =
    [
        new("activate", null, static (e, value, cancel) => e.ActivateAsync(Names("activate", value), cancel), isString: true),
        new("deactivate", null, static (e, value, _) => DeactivateAsync(e, value), isString: true),
        new("define", null, DefineAsync, isString: true),
        new(
            "undefine",
            null,
            static (e, value, _) =>
            {
                e.Undefine(Names("undefine", value));
                return default;
            },
            isString: true),
    ];

    private static readonly ObjectAttribute<FunctionProvider> Kind = new("kind", static p => p.Kind);

    public static TreeDirectory Make(ProvisioningEngine engine) => new("config", () => List(engine));

    private static IEnumerable<TreeNode> List(ProvisioningEngine engine)
    {
        foreach (var control in Controls)
            yield return new TreeFile($"{Place}/{control.Name}", engine, control);
        yield return new TreeDirectory("functions", () => engine.Functions.Select(f => Describe(engine, f)));
        yield return new TreeDirectory("kinds", () => engine.Providers.Select(Describe));
    }

    private static TreeDirectory Describe(ProvisioningEngine engine, ProvisionedFunction function) => new(function.Name, () => ListFunction(engine, function));

    private static IEnumerable<TreeNode> ListFunction(ProvisioningEngine engine, ProvisionedFunction function)
    {
        var folder = $"{Place}/functions/{function.Name}";
        yield return File("kept", static f => f.IsKept ? "1" : "0");
        yield return File("kind", static f => f.Kind);
        yield return File("live", static f => f.State is FunctionState.Active or FunctionState.InUse or FunctionState.Draining ? "1" : "0", (f, value, cancel) =>
            AttributeValue.ParseBoolean(folder + "/live", value) ? engine.ActivateAsync([f.Name], cancel) : engine.DeactivateAsync([f.Name]));
        yield return File("parent", static f => f.Parent ?? "");
        if ((function.Problem ?? function.Setback) is not null)
            yield return File("problem", static f => f.Problem ?? f.Setback ?? "");
        yield return File("set", null, (f, value, _) => engine.SetAsync(f.Name, ProfileText.ParsePairs(ProfileText.Split(value))));
        yield return File("state", static f => f.StateName);
        if (function.Device is { } device)
            yield return new TreeLink("device", device.DevPath);
        yield return new TreeDirectory("profile", () => ListProfile(engine, function, folder));

        TreeFile File(string name, Func<ProvisionedFunction, string>? show, Func<ProvisionedFunction, string, CancellationToken, ValueTask>? store = null) => new(
            $"{folder}/{name}",
            function,
            new ObjectAttribute<ProvisionedFunction>(name, show, store is null ? null : (f, value, cancel) => store(f, value, cancel), isString: true));
    }

    private static IEnumerable<TreeNode> ListProfile(ProvisioningEngine engine, ProvisionedFunction function, string folder) =>
        (function.Now.Provider?.Fields ?? []).Select(field => new TreeFile(
            $"{folder}/profile/{field.Name}",
            function,
            new ObjectAttribute<ProvisionedFunction>(
                field.Name,
                f => f.Describe().FirstOrDefault(p => p.Key == field.Name).Value ?? "",
                (f, value, _) => engine.SetAsync(f.Name, [KeyValuePair.Create(field.Name, value)]),
                isString: true)));

    private static TreeDirectory Describe(FunctionProvider provider)
    {
        var name = provider.Parents is [var parent, ..] ? $"{provider.Kind}@{parent}" : provider.Kind;
        return new TreeDirectory(name, () =>
        [
            new TreeFile($"{Place}/kinds/{name}/kind", provider, Kind),
            new TreeDirectory("fields", () => provider.Fields.Select(field => new TreeFile(
                $"{Place}/kinds/{name}/fields/{field.Name}", provider, new ObjectAttribute<FunctionProvider>(field.Name, _ => field.Describe())))),
        ]);
    }

    // live=1: one that does not last, defined and activated in one.
    private static async ValueTask DefineAsync(ProvisioningEngine engine, string value, CancellationToken cancellationToken)
    {
        var words = ProfileText.Split(value);
        var pairs = words.Count > 1 && !words[0].Contains('=', StringComparison.Ordinal) ? ProfileText.ParsePairs(words.Skip(1)) : [];
        var kind = Find("kind")
            ?? throw new VirtbusException(
                Errno.EINVAL, $"{Place}/define: '{value}' defines no function. Write NAME kind=KIND [parent=PARENT] [key=value …], for example: disk1 kind=vdpa parent=vdpasim_blk capacity=64MiB");
        var values = pairs.Where(static p => p.Key is not ("kind" or "parent" or "kept" or "live"));
        if (Find("live") is { } live && AttributeValue.ParseBoolean(Place + "/define: live", live))
            await engine.AddAsync(words[0], kind, Find("parent"), values, cancellationToken);
        else
            engine.Define(words[0], kind, Find("parent"), values, isKept: Find("kept") is not { } kept || AttributeValue.ParseBoolean(Place + "/define: kept", kept));

        string? Find(string key) => pairs.FirstOrDefault(p => p.Key == key).Value;
    }

    // check=1: only says whether it would be refused, so that nobody is sent away for nothing.
    private static ValueTask DeactivateAsync(ProvisioningEngine engine, string value)
    {
        var names = Names("deactivate", value);
        if (names[^1].Split('=') is not ["check", var check] || !AttributeValue.ParseBoolean(Place + "/deactivate: check", check))
            return engine.DeactivateAsync(names);
        engine.CheckDeactivation([.. names.SkipLast(1)]);
        return default;
    }

    private static IReadOnlyList<string> Names(string file, string value) => ProfileText.Split(value) is { Count: > 0 } names
        ? names
        : throw new VirtbusException(Errno.EINVAL, $"{Place}/{file}: '{value}' names no function. Write one or more names.");
}
