using System.Collections.Concurrent;
using System.Diagnostics.CodeAnalysis;

namespace Virtbus.Transports.Fuse;

/// <summary>What is open, by the number that the kernel has of it, and who of it waits for a change. Safe from any thread.</summary>
internal sealed class FuseHandles
{
    private readonly ConcurrentDictionary<ulong, FuseHandle> _byNumber = new();
    private readonly Lock _lock = new();
    // By the object whose attribute it is.
    private readonly Dictionary<object, List<FuseHandle>> _watched = [];
    private ulong _last;

    /// <summary>How many files and folders are open.</summary>
    internal int Count => _byNumber.Count;

    internal ulong Add(FuseHandle handle)
    {
        var number = Interlocked.Increment(ref _last);
        _byNumber[number] = handle;
        return number;
    }

    internal bool TryGet(ulong number, [NotNullWhen(true)] out FuseHandle? handle) => _byNumber.TryGetValue(number, out handle);

    internal void Remove(ulong number)
    {
        if (!_byNumber.TryRemove(number, out var handle) || handle.File?.Owner is not { } owner)
            return;
        lock (_lock)
        {
            if (_watched.TryGetValue(owner, out var handles) && handles.Remove(handle) && handles.Count == 0)
                _watched.Remove(owner);
        }
    }

    /// <summary>Has a handle's changes told, from here on, whoever waits for one.</summary>
    internal void Watch(FuseHandle handle)
    {
        lock (_lock)
        {
            var owner = handle.File!.Owner!;
            if (!_watched.TryGetValue(owner, out var handles))
                _watched.Add(owner, handles = []);
            if (!handles.Contains(handle))
                handles.Add(handle);
        }
    }

    /// <summary>Those of an object's attribute that are watched; of all its attributes without a name.</summary>
    internal FuseHandle[] WatchersOf(object owner, string? attribute)
    {
        lock (_lock)
            return [.. (_watched.GetValueOrDefault(owner) ?? []).Where(h => attribute is null || h.Node.Name == attribute)];
    }

    /// <summary>The objects of which an attribute is watched.</summary>
    internal object[] WatchedOwners()
    {
        lock (_lock)
            return [.. _watched.Keys];
    }
}
