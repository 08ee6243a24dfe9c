using Virtbus.Core;

namespace Virtbus.Transports.Fuse;

/// <summary>What was opened: a file with the value as it was read last, or a folder with its entries as they were then.</summary>
/// <param name="node">What.</param>
internal sealed class FuseHandle(FuseNode node)
{
    internal FuseNode Node => node;

    /// <summary>The file; null for a folder.</summary>
    internal TreeFile? File => node.Entry as TreeFile;

    /// <summary>The entries of a folder, at the moment that it was opened.</summary>
    internal TreeNode[] Entries { get; init; } = [];

    /// <summary>The value of a text file, made when it was read from the start.</summary>
    internal byte[]? Value { get; set; }

    /// <summary>Whether the value may be another one than was read last. True before the first read, as of a file of sysfs.</summary>
    internal volatile bool IsChanged = true;

    /// <summary>What the kernel calls who waits for a change; 0 for nobody.</summary>
    internal ulong Poller;
}
