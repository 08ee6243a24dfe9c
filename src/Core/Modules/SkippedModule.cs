namespace Virtbus.Core;

/// <summary>A file in the modules folder that is no usable module.</summary>
/// <param name="Path">The file.</param>
/// <param name="Reason">Why it is skipped.</param>
public sealed record SkippedModule(string Path, string Reason);
