using System.Globalization;

namespace Virtbus.Daemon.Manifest;

/// <summary>A virtio device on PCI.</summary>
/// <param name="Type">blk, net, console or rng.</param>
/// <param name="Disk">What is said of a disk: its sectors, and the rest.</param>
/// <param name="Net">What is said of a network device.</param>
/// <param name="VirtualFunctions">How many virtual functions it has, all of them enabled; null for none.</param>
/// <param name="VirtualFiles">The files with the disks of the virtual functions: an absolute path with a % for the number; null for none.</param>
/// <param name="Admin">How its administration queue judges commands.</param>
/// <param name="IsTransitional">Whether drivers from before version 1.0 of the standard find it.</param>
/// <param name="Vectors">The number of MSI-X vectors.</param>
internal sealed record VirtioManifest(
    ManifestValue<VirtioType> Type,
    DiskManifest? Disk,
    NetManifest? Net,
    ManifestValue<int>? VirtualFunctions,
    ManifestValue<string>? VirtualFiles,
    ManifestValue<AdminJudgement>? Admin,
    ManifestValue<bool>? IsTransitional,
    ManifestValue<int>? Vectors)
{
    /// <summary>What is said of it, as attributes of its profile.</summary>
    public IEnumerable<KeyValuePair<string, string>> Values
    {
        get
        {
            yield return new("virtio", Type.Value.ToString().ToLowerInvariant());
            foreach (var value in Disk?.Values ?? [])
                yield return value;
            foreach (var value in Net?.Values ?? [])
                yield return value;
            if (VirtualFunctions is { Value: > 0 } count)
                yield return new("vfs", count.Value.ToString(CultureInfo.InvariantCulture));
            if (VirtualFiles is { } files)
                yield return new("vf_file", files);
            if (Admin is { } admin)
                yield return new("admin", admin.Value.ToString().ToLowerInvariant());
            if (IsTransitional is { } transitional)
                yield return new("transitional", transitional.Value ? "true" : "false");
            if (Vectors is { } vectors)
                yield return new("vectors", vectors.Value.ToString(CultureInfo.InvariantCulture));
        }
    }
}
