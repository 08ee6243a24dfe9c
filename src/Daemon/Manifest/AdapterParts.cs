namespace Virtbus.Daemon.Manifest;

/// <summary>What an adapter is capable of. The words in the manifest are the names in lower case.</summary>
[Flags]
internal enum AdapterParts
{
    None = 0,
    Net = 1,
    Vdpa = 2,
}
