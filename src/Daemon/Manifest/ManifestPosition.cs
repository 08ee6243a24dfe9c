namespace Virtbus.Daemon.Manifest;

/// <summary>A place in a manifest, as editors count: both from 1.</summary>
/// <param name="Line">The line.</param>
/// <param name="Column">The column.</param>
internal readonly record struct ManifestPosition(int Line, int Column);
