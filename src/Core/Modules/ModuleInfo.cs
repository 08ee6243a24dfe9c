namespace Virtbus.Core;

/// <summary>What the index knows of a module file, read from its metadata.</summary>
/// <param name="Name">The module's name.</param>
/// <param name="Path">The file.</param>
/// <param name="Description">One line on what it is.</param>
/// <param name="Aliases">The alias patterns that it declares.</param>
/// <param name="References">The assemblies that it refers to, by simple name.</param>
public sealed record ModuleInfo(
    string Name,
    string Path,
    string Description,
    IReadOnlyList<string> Aliases,
    IReadOnlyList<string> References)
{
    internal string EntryType { get; init; } = "";
}
