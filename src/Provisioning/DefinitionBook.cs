using System.Collections.Immutable;
using Virtbus.Platform;
using static Virtbus.Provisioning.ProvisionedFunction;

namespace Virtbus.Provisioning;

/// <summary>
/// The functions that are defined, and what the store has of them. A change counts when the store has it, and one of several functions counts whole
/// or not at all. What changes is called under <see cref="Lock"/>.
/// </summary>
internal sealed class DefinitionBook
{
    private ImmutableList<ProvisionedFunction> _all = [];
    private IDefinitionStore? _store;
    private long _order;

    /// <summary>Orders all that changes functions and providers. No provider works under it.</summary>
    public Lock Lock { get; } = new();

    /// <summary>In the order in which they were defined. Any thread, without the lock.</summary>
    public IReadOnlyList<ProvisionedFunction> All => Volatile.Read(ref _all);

    /// <summary>Finds a function.</summary>
    /// <exception cref="VirtbusException">ENOENT.</exception>
    public ProvisionedFunction Get(string name) =>
        All.FirstOrDefault(f => f.Name == name)
        ?? throw new VirtbusException(Errno.ENOENT, $"No function '{name}' is defined.{Suggestion.For(name, All.Select(static f => f.Name))} 'virtbus function list' shows those that are.");

    /// <summary>Takes up what a store has, and keeps there what changes from now on.</summary>
    public IReadOnlyList<ProvisionedFunction> Load(IDefinitionStore store)
    {
        var all = store.Load();
        _store = store;
        foreach (var kept in all)
        {
            var function = new ProvisionedFunction(kept.Name, kept.Kind, kept.Parent, kept.Order, isKept: true) { RawValues = kept.Values };
            function.Now = function.Now with { IsWanted = kept.IsActive, Place = kept.Place };
            _order = Math.Max(_order, kept.Order + 1);
            Volatile.Write(ref _all, _all.Add(function));
        }

        return _all;
    }

    public ProvisionedFunction Add(string name, string kind, FunctionProvider provider, FunctionProfile profile, bool isKept)
    {
        var function = new ProvisionedFunction(name, kind, provider.Parents.Count == 0 ? null : provider.Parents[0], _order++, isKept && _store is not null);
        function.Now = new Moment(provider, profile, null, Work.None, false, null);
        try
        {
            CatchUp([]);
            Save(function, function.Now);
        }
        catch
        {
            // What can't be kept is not defined, also when it was written and only not made durable.
            TryStore(() => _store!.Remove(name));
            throw;
        }

        Volatile.Write(ref _all, _all.Add(function));
        return function;
    }

    public void Remove(ProvisionedFunction function)
    {
        CatchUp([function]);
        if (function.IsKept)
        {
            // It stays when it can't be forgotten; what is left of it in the store is then written again.
            function.IsBehind = true;
            _store!.Remove(function.Name);
        }

        function.IsForgotten = true;
        Volatile.Write(ref _all, _all.Remove(function));
    }

    /// <summary>Changes functions, all or none.</summary>
    /// <exception cref="VirtbusException">What the store answers.</exception>
    public void Change(IReadOnlyList<(ProvisionedFunction Function, Moment Next)> changes)
    {
        CatchUp([.. changes.Select(static c => c.Function)]);
        var kept = 0;
        try
        {
            for (; kept < changes.Count; kept++)
                Save(changes[kept].Function, changes[kept].Next);
        }
        catch
        {
            for (; kept >= 0; kept--)
                Note(changes[kept].Function, changes[kept].Function.Now);
            throw;
        }

        foreach (var (function, next) in changes)
        {
            function.Now = next;
            function.IsBehind = false;
        }
    }

    /// <summary>What a function is, whether the store can keep it now or later.</summary>
    public void Note(ProvisionedFunction function, Moment next)
    {
        function.Now = next;
        function.IsBehind = !TryStore(() => Save(function, next));
    }

    private static bool TryStore(Action change)
    {
        try
        {
            change();
            return true;
        }
        catch (VirtbusException)
        {
            return false;
        }
    }

    // Those that are written next anyhow are left out.
    private void CatchUp(HashSet<ProvisionedFunction> next)
    {
        foreach (var function in _all)
        {
            if (function.IsBehind && !next.Contains(function))
                Note(function, function.Now);
        }
    }

    private void Save(ProvisionedFunction function, Moment next)
    {
        if (function is { IsKept: true, IsForgotten: false })
            _store?.Save(function.ToStored(next));
    }
}
