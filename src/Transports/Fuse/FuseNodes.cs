using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;
using Virtbus.Core;

namespace Virtbus.Transports.Fuse;

/// <summary>The names that the kernel knows of one mount. Safe from any thread; what an object answers is asked outside of its lock.</summary>
/// <param name="root">The top of the tree.</param>
/// <param name="most">The most names that it keeps.</param>
internal sealed class FuseNodes(TreeDirectory root, int most)
{
    private readonly Lock _lock = new();
    private readonly Dictionary<ulong, FuseNode> _byId = new() { [FuseProtocol.FUSE_ROOT_ID] = new FuseNode(FuseProtocol.FUSE_ROOT_ID, null, root) };
    // Links by what they lead to, so that a device that changes is found where it is shown.
    private readonly Dictionary<string, List<FuseNode>> _links = [];
    private ulong _lastId = FuseProtocol.FUSE_ROOT_ID;

    /// <summary>How many names there are.</summary>
    internal int Count
    {
        get
        {
            lock (_lock)
                return _byId.Count;
        }
    }

    internal bool TryGet(ulong id, [NotNullWhen(true)] out FuseNode? node)
    {
        lock (_lock)
            return _byId.TryGetValue(id, out node);
    }

    /// <summary>A folder as it is now; null when it is gone, or is none.</summary>
    /// <remarks>One that only holds others may have been made of what there was, so it is found anew.</remarks>
    internal static TreeDirectory? Current(FuseNode node) => node switch
    {
        { Entry: TreeDirectory { Owner: not null, IsGone: var isGone } folder } => isGone ? null : folder,
        { Entry: TreeDirectory folder, Parent: null } => folder,
        { Parent: { } parent } => Current(parent)?.Find(node.Name) as TreeDirectory,
        _ => null,
    };

    /// <summary>Takes what was found in a folder, as known to the kernel once more.</summary>
    /// <returns>Null when there is no room for another name.</returns>
    internal FuseNode? Tell(FuseNode folder, TreeNode entry)
    {
        lock (_lock)
        {
            if (folder.Children?.TryGetValue(entry.Name, out var node) != true || !node!.Entry.IsSameAs(entry))
            {
                if (_byId.Count >= most)
                    return null;
                // What had the name before keeps its number until the kernel forgets it.
                node = new FuseNode(++_lastId, folder, entry);
                _byId.Add(node.Id, node);
                (folder.Children ??= [])[entry.Name] = node;
                if (entry is TreeLink link)
                    (CollectionsMarshal.GetValueRefOrAddDefault(_links, link.Target, out _) ??= []).Add(node);
            }

            node.Entry = entry;
            node.Lookups++;
            return node;
        }
    }

    /// <summary>The number of what a folder shows by a name, where the kernel knows it.</summary>
    internal ulong IdOf(FuseNode folder, string name)
    {
        lock (_lock)
            return folder.Children?.TryGetValue(name, out var node) == true ? node.Id : FuseProtocol.FUSE_UNKNOWN_INO;
    }

    /// <summary>The kernel forgot that it was told of a name so many times.</summary>
    internal void Forget(ulong id, ulong times)
    {
        lock (_lock)
        {
            if (!_byId.TryGetValue(id, out var node) || node.Parent is null)
                return;
            node.Lookups -= Math.Min(times, node.Lookups);
            // A folder that is forgotten before what is in it goes with the last of that.
            while (node is { Lookups: 0, Children: null or { Count: 0 }, Parent: { } parent })
            {
                _byId.Remove(node.Id);
                Detach(node);
                if (node.Entry is TreeLink link && _links.TryGetValue(link.Target, out var links) && links.Remove(node) && links.Count == 0)
                    _links.Remove(link.Target);
                node = parent;
            }
        }
    }

    /// <summary>Takes a name out of its folder: whoever looks it up again finds another one.</summary>
    /// <returns>False when it was not there.</returns>
    internal bool TryDetach(FuseNode node)
    {
        lock (_lock)
            return Detach(node);
    }

    /// <summary>What the kernel knows by a path, and of the folders above it.</summary>
    /// <param name="path">A path from the root.</param>
    /// <param name="above">The folders on the way that the kernel knows, the root first.</param>
    internal FuseNode? Find(string path, List<FuseNode> above)
    {
        lock (_lock)
        {
            var node = _byId[FuseProtocol.FUSE_ROOT_ID];
            foreach (var name in path.Split('/', StringSplitOptions.RemoveEmptyEntries))
            {
                above.Add(node);
                if (node.Children?.TryGetValue(name, out var child) != true)
                    return null;
                node = child!;
            }

            return node;
        }
    }

    internal FuseNode[] ChildrenOf(FuseNode node)
    {
        lock (_lock)
            return [.. node.Children?.Values ?? Enumerable.Empty<FuseNode>()];
    }

    internal FuseNode[] LinksTo(string path)
    {
        lock (_lock)
            return [.. _links.GetValueOrDefault(path) ?? []];
    }

    internal FuseNode[] All()
    {
        lock (_lock)
            return [.. _byId.Values];
    }

    private static bool Detach(FuseNode node) =>
        node.Parent?.Children is { } names && names.TryGetValue(node.Name, out var there) && there == node && names.Remove(node.Name);
}
