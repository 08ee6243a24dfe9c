using Virtbus.Core;

namespace Virtbus.Transports.Fuse;

/// <summary>A name of the tree that the kernel was told of (an inode). Guarded by its table.</summary>
/// <param name="id">Its number, of which there is never another one.</param>
/// <param name="parent">The folder that it was found in; null for the root.</param>
/// <param name="entry">What was found.</param>
internal sealed class FuseNode(ulong id, FuseNode? parent, TreeNode entry)
{
    internal ulong Id => id;

    internal FuseNode? Parent => parent;

    internal string Name { get; } = entry.Name;

    /// <summary>What was found last; the same object's as long as the node is there.</summary>
    internal TreeNode Entry { get; set; } = entry;

    /// <summary>How often the kernel was told of it, and has not said that it forgot.</summary>
    internal ulong Lookups { get; set; }

    /// <summary>What was found below it, by name.</summary>
    internal Dictionary<string, FuseNode>? Children { get; set; }

    /// <summary>The path in the tree, from the root.</summary>
    internal string Path => parent is null ? "" : $"{parent.Path}/{Name}";
}
