using Virtbus.Platform;

namespace Virtbus.Vm;

/// <summary>Fetches a Debian package from the machine's own apt sources and unpacks it, without installing it.</summary>
internal static class DebianPackage
{
    private const string Remedy = "On Debian check the network and the machine's apt sources; elsewhere install a kernel and a static busybox.";

    /// <summary>The package that another one depends on and whose name starts so; of several, the first.</summary>
    /// <param name="package">The other one.</param>
    /// <param name="prefix">The start.</param>
    /// <param name="suite">Options of <see cref="DebianSuite"/>; null for the machine's own sources.</param>
    /// <param name="progress">Gets a line for each step that takes time, or null.</param>
    /// <param name="cancellation">Ends it.</param>
    public static async Task<string> DependencyAsync(
        string package, string prefix, IReadOnlyList<string>? suite, IProgress<string>? progress, CancellationToken cancellation)
    {
        if (suite is null)
            await EnsureKnownAsync(package, progress, cancellation);
        string record = await HostCommand.RunTextAsync(["apt-cache", .. suite ?? [], "show", "--no-all-versions", package], Remedy, cancellation);
        return ParseDependency(record, prefix)
            ?? throw new VirtbusException(Errno.ENOENT, $"Package '{package}' depends on no package '{prefix}...'. {Remedy}");
    }

    /// <summary>Reads the first dependency with that prefix from a package record.</summary>
    public static string? ParseDependency(string record, string prefix) => record.Split('\n')
        .Where(line => line.StartsWith("Depends:", StringComparison.Ordinal))
        .SelectMany(line => line["Depends:".Length..].Split(',', '|'))
        .Select(word => word.Trim().Split(' ')[0])
        .FirstOrDefault(name => name.StartsWith(prefix, StringComparison.Ordinal));

    /// <summary>Unpacks a package's files into a folder.</summary>
    /// <param name="package">The package.</param>
    /// <param name="folder">The folder.</param>
    /// <param name="suite">Options of <see cref="DebianSuite"/>; null for the machine's own sources.</param>
    /// <param name="progress">Gets a line for each step that takes time, or null.</param>
    /// <param name="cancellation">Ends it.</param>
    public static async Task UnpackAsync(
        string package, string folder, IReadOnlyList<string>? suite, IProgress<string>? progress, CancellationToken cancellation)
    {
        if (suite is null)
            await EnsureKnownAsync(package, progress, cancellation);
        progress?.Report($"Fetching package {package}");
        string download = Path.Combine(folder, ".download");
        Directory.CreateDirectory(download);
        // apt's own user may not enter the cache folder. It downloads without that user then, and says so, which would stand before what went wrong.
        await HostCommand.RunAsync(["apt-get", .. suite ?? [], "-o", "APT::Sandbox::User=root", "download", package], Remedy, cancellation, download);
        string archive = Directory.EnumerateFiles(download, "*.deb").Single();
        await HostCommand.RunAsync(["dpkg-deb", "-x", archive, folder], Remedy, cancellation);
        Directory.Delete(download, recursive: true);
    }

    // A machine image often ships without package lists.
    private static async Task EnsureKnownAsync(string package, IProgress<string>? progress, CancellationToken cancellation)
    {
        string names = await HostCommand.RunTextAsync(["apt-cache", "pkgnames", package], Remedy, cancellation);
        if (names.Split('\n').Contains(package))
            return;
        if (!Environment.IsPrivilegedProcess)
            throw new VirtbusException(Errno.ENOENT, $"apt does not know package '{package}'. Run 'apt-get update' as root, then try again.");
        progress?.Report("Updating the package lists");
        await HostCommand.RunAsync(["apt-get", "update"], Remedy, cancellation);
    }
}
