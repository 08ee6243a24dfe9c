namespace Virtbus.Cli.Verbs;

/// <summary>A provider of PCI functions and what it has.</summary>
/// <param name="Provider">Its name.</param>
/// <param name="Functions">The functions that it can list.</param>
/// <param name="Obstacle">Why it has none, and what to do; null when nothing is in the way.</param>
internal sealed record FunctionSource(string Provider, IReadOnlyList<string> Functions, string? Obstacle);
