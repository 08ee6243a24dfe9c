namespace Virtbus.Daemon.Manifest;

/// <summary>Where a manifest says something: for people, and as a path in the document.</summary>
/// <param name="At">Line and column.</param>
/// <param name="Path">The path, for example <c>disks[0].file</c>.</param>
internal readonly record struct ManifestPlace(ManifestPosition At, string Path);
