namespace Virtbus.Block;

/// <summary>Blocks in a row that are kept alike.</summary>
/// <param name="Length">How many bytes, above 0, whole blocks.</param>
/// <param name="IsHole">Whether nothing is kept of them, so that they read as zeros; else they may hold anything.</param>
public readonly record struct BlockExtent(long Length, bool IsHole);
