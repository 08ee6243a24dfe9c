namespace Virtbus.Daemon.Manifest;

/// <summary>How a disk's file is laid out. The word in the manifest is the name in lower case.</summary>
internal enum DiskFormat
{
    /// <summary>Sectors and nothing else.</summary>
    Raw,
}
