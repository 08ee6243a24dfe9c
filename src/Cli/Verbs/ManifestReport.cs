namespace Virtbus.Cli.Verbs;

/// <summary>What is wrong in a manifest; nothing when it is right.</summary>
internal sealed record ManifestReport(string File, IReadOnlyList<ManifestReport.Error> Errors)
{
    /// <summary>One thing that is wrong, with its place: line and column from 1, and the path in the document.</summary>
    internal sealed record Error(int Line, int Column, string Path, string Message);
}
