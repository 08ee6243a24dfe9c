using Virtbus.Platform;

namespace Virtbus.Vm;

/// <summary>A kernel for the guest: one that is installed, else one in the cache, else Debian's cloud kernel, fetched into the cache.</summary>
/// <param name="Version">The release, as uname -r prints it in the guest.</param>
/// <param name="Image">The bzImage.</param>
/// <param name="Modules">The folder that holds the kernel's modules.</param>
internal sealed record GuestKernel(string Version, string Image, string Modules)
{
    /// <summary>The package whose dependency is the kernel of the day.</summary>
    public const string MetaPackage = "linux-image-cloud-amd64";

    private const string ImagePrefix = "linux-image-";

    /// <summary>Finds or fetches a kernel that can drive a virtio disk.</summary>
    /// <param name="cache">Where what was fetched is kept.</param>
    /// <param name="suite">The Debian suite whose kernel it is to be; null for an installed one, else one of the machine's own sources.</param>
    /// <param name="progress">Gets a line for each step that takes time, or null.</param>
    /// <param name="cancellation">Ends the fetching.</param>
    public static async Task<GuestKernel> GetAsync(CacheFolder cache, string? suite, IProgress<string>? progress, CancellationToken cancellation)
    {
        if (suite is not null)
            return await GetOfSuiteAsync(cache, suite, progress, cancellation);
        string kernels = cache.PathOf("kernel");
        IEnumerable<GuestKernel> cached = Directory.Exists(kernels) ? Directory.EnumerateDirectories(kernels).SelectMany(FindIn) : [];
        if ((Best(FindIn("/")) ?? Best(cached)) is { } ready)
            return ready;

        string package = await DebianPackage.DependencyAsync(MetaPackage, ImagePrefix, suite: null, progress, cancellation);
        string name = Path.Combine("kernel", package[ImagePrefix.Length..]);
        string folder = await cache.GetOrBuildAsync(
            name, partial => DebianPackage.UnpackAsync(package, partial, suite: null, progress, cancellation), cancellation);
        return Best(FindIn(folder)) ?? throw NoDrivers(package);
    }

    /// <summary>The usable kernels under a root folder: image readable, modules there, virtio drivers among them.</summary>
    public static IEnumerable<GuestKernel> FindIn(string root)
    {
        const string prefix = "vmlinuz-";
        string boot = Path.Combine(root, "boot");
        if (!Directory.Exists(boot))
            yield break;
        foreach (string image in Directory.EnumerateFiles(boot, prefix + "*"))
        {
            string version = Path.GetFileName(image)[prefix.Length..];
            string? modules = new[] { "lib/modules", "usr/lib/modules" }
                .Select(folder => Path.Combine(root, folder, version))
                .FirstOrDefault(Directory.Exists);
            if (modules is not null && IsReadable(image) && GuestImage.BootModules.All(KernelModules.Open(modules).Has))
                yield return new GuestKernel(version, image, modules);
        }
    }

    /// <summary>The newest cloud kernel (it boots quickest), else the newest of all; null when there is none.</summary>
    public static GuestKernel? Best(IEnumerable<GuestKernel> kernels) => kernels
        .OrderBy(kernel => kernel.Version.Contains("cloud"))
        .ThenBy(kernel => SortKey(kernel.Version), StringComparer.Ordinal)
        .LastOrDefault();

    private static async Task<GuestKernel> GetOfSuiteAsync(CacheFolder cache, string suite, IProgress<string>? progress, CancellationToken cancellation)
    {
        DebianSuite.Check(suite);
        string folder = await cache.GetOrBuildAsync(
            $"kernel-{suite}",
            async partial =>
            {
                // The lists of the suite are there for as long as this takes.
                string lists = Path.Combine(partial, "apt");
                Directory.CreateDirectory(lists);
                IReadOnlyList<string> options = await DebianSuite.OpenAsync(suite, lists, progress, cancellation);
                string package = await DebianPackage.DependencyAsync(MetaPackage, ImagePrefix, options, progress, cancellation);
                await DebianPackage.UnpackAsync(package, partial, options, progress, cancellation);
                Directory.Delete(lists, recursive: true);
            },
            cancellation);
        return Best(FindIn(folder)) ?? throw NoDrivers($"{MetaPackage} of {suite}");
    }

    private static VirtbusException NoDrivers(string package) =>
        new(Errno.ENOENT, $"Package '{package}' holds no kernel with virtio drivers. Install a kernel on this machine.");

    // Runs of digits padded with zeros, so that an ordinal comparison takes them as numbers: 6.1.0-9 comes before 6.1.0-56.
    private static string SortKey(string version) =>
        string.Concat(version.Split('.', '-').Select(part => part.All(char.IsAsciiDigit) ? part.PadLeft(8, '0') : $"-{part}"));

    private static bool IsReadable(string file)
    {
        try
        {
            using FileStream open = File.OpenRead(file);
            return true;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Expected: some distributions let only root read kernels. Another one is taken.
            return false;
        }
    }
}
