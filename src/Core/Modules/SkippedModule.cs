namespace Virtbus.Core;

/// <summary>A file in the modules folder that is no usable module, or such a folder that can't be used.</summary>
/// <param name="Path">The file or folder.</param>
/// <param name="Reason">Why it is skipped.</param>
public sealed record SkippedModule(string Path, string Reason);
