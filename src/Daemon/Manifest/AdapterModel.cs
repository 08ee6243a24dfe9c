namespace Virtbus.Daemon.Manifest;

/// <summary>The makes of adapter. The word in the manifest is the name in lower case.</summary>
internal enum AdapterModel
{
    Merlin,
    Harrier,
}
