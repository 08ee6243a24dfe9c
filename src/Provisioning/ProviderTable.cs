using System.Collections.Immutable;
using Virtbus.Platform;

namespace Virtbus.Provisioning;

/// <summary>The providers that are there. Changed under the engine's lock; read without.</summary>
internal sealed class ProviderTable
{
    private ImmutableList<FunctionProvider> _all = [];

    public IReadOnlyList<FunctionProvider> All => Volatile.Read(ref _all);

    /// <summary>Whether it makes a function that was defined, as the definition says by kind and lasting name.</summary>
    public static bool Makes(FunctionProvider provider, ProvisionedFunction function) => provider.Kind == function.Kind && IsParent(provider, function.Parent);

    /// <summary>Where it makes functions, for a sentence.</summary>
    public static string At(FunctionProvider provider) => provider is { Parents: [var parent, ..] } ? " at " + parent : "";

    public void Add(FunctionProvider provider)
    {
        if (_all.Exists(p => p.Kind == provider.Kind && (p.Parents.Count == 0 || provider.Parents.Count == 0 || p.Parents.Intersect(provider.Parents).Any())))
            throw new VirtbusException(Errno.EEXIST, $"There is a provider of {provider.Kind} functions{At(provider)} already. Remove that one first.");
        _all = _all.Add(provider);
    }

    public void Remove(FunctionProvider provider) => _all = _all.Remove(provider);

    public FunctionProvider? Of(ProvisionedFunction function) => _all.Find(p => Makes(p, function));

    /// <summary>The one of a kind at a parent; without a parent the only one of the kind.</summary>
    public FunctionProvider? Find(string kind, string? parent)
    {
        var found = All.Where(p => p.Kind == kind && (parent is null || IsParent(p, parent))).Take(2).ToList();
        return found.Count == 1 ? found[0] : null;
    }

    /// <summary>Why there is none, and what to write.</summary>
    public VirtbusException Missing(string name, string kind, string? parent)
    {
        var all = All;
        string[] parents = [.. all.Where(p => p.Kind == kind).SelectMany(static p => p.Parents.Take(1))];
        var isOpen = parents.Length > 1 && parent is null;
        var remedy = parents.Length switch
        {
            0 when all.Count == 0 => "No driver that makes functions is bound.",
            0 => $"The kinds that can be made now are {string.Join(", ", all.Select(static p => p.Kind).Distinct().Order(StringComparer.Ordinal))}.",
            _ when isOpen => $"Name what it hangs at, one of {string.Join(", ", parents)}.",
            _ => $"Functions of kind {kind} can be made at {string.Join(", ", parents)}.",
        };
        return new VirtbusException(
            isOpen ? Errno.EINVAL : Errno.ENODEV,
            $"Function '{name}': {(isOpen ? "several make" : "nothing makes")} functions of kind '{kind}'{(parent is null ? "" : $" at '{parent}'")}.{(isOpen ? "" : parents.Length > 0 ? Suggestion.For(parent ?? "", parents) : Suggestion.For(kind, all.Select(static p => p.Kind)))} {remedy}");
    }

    private static bool IsParent(FunctionProvider provider, string? parent) => parent is null ? provider.Parents.Count == 0 : provider.Parents.Contains(parent);
}
