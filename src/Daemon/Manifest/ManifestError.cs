namespace Virtbus.Daemon.Manifest;

/// <summary>One thing that is wrong in a manifest.</summary>
/// <param name="At">Where.</param>
/// <param name="Path">The value's path in the document, for example <c>disks[0].file</c>; empty for the document.</param>
/// <param name="Message">A sentence with the value and what would be right.</param>
internal sealed record ManifestError(ManifestPosition At, string Path, string Message)
{
    /// <summary>How many are kept of one file: a long file that is no manifest has millions.</summary>
    public const int MaxKept = 1000;

    public string ToString(string file) =>
        $"{file}:{At.Line}:{At.Column}: {(Path.Length == 0 ? "" : Path + ": ")}{Message}";
}
