using System.IO.Compression;
using System.Reflection;
using System.Security.Cryptography;
using System.Text;

namespace Virtbus.Vm;

/// <summary>What a guest boots: a kernel, and an initramfs of busybox, the kernel's virtio modules, our init script, and PCI tools if wanted.</summary>
/// <param name="Kernel">Path of the kernel image.</param>
/// <param name="Initramfs">Path of the initramfs.</param>
internal sealed record GuestImage(string Kernel, string Initramfs)
{
    /// <summary>The modules that the init script loads.</summary>
    public static readonly IReadOnlyList<string> BootModules = ["virtio_pci", "virtio_blk", "virtio_console"];

    // For modprobe by hand or by COMMAND; a kernel that lacks one is as good.
    private static readonly string[] ExtraModules =
        ["virtio_net", "virtio_rng", "vfio_pci", "vfio_iommu_type1", "uio_pci_generic", "vdpa", "vhost_vdpa", "virtio_vdpa", "nbd"];

    /// <summary>Gives the image, making what the cache does not hold.</summary>
    /// <param name="cache">Where it is kept.</param>
    /// <param name="kernelSuite">The Debian suite whose kernel it is; null for the kernel that is there.</param>
    /// <param name="withPciTools">Whether the guest is to have lspci and setpci; without them it boots a little quicker.</param>
    /// <param name="progress">Gets a line for each step that takes time, or null.</param>
    /// <param name="cancellation">Ends the making.</param>
    public static async Task<GuestImage> GetAsync(
        CacheFolder cache, string? kernelSuite, bool withPciTools, IProgress<string>? progress, CancellationToken cancellation)
    {
        GuestKernel kernel = await GuestKernel.GetAsync(cache, kernelSuite, progress, cancellation);
        string busybox = await GetBusyboxAsync(cache, progress, cancellation);
        string init = ReadInit();
        IReadOnlyList<GuestFile> tools = withPciTools ? await PciTools.GetAsync(cache, progress, cancellation) : [];
        IEnumerable<string> files = tools.Select(tool => tool.Source).Prepend(busybox).Select(file =>
        {
            FileInfo info = new(file);
            return $"{file} {info.Length} {info.LastWriteTimeUtc.Ticks}";
        });
        KernelModules available = KernelModules.Open(kernel.Modules);
        string builtin = string.Concat(BootModules.Concat(ExtraModules).Where(available.IsBuiltin).Select(name => $"{name}.ko\n"));
        string recipe = string.Join('\n', kernel.Modules, string.Join('\n', files), string.Join(' ', ExtraModules), init, builtin);
        string key = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(recipe)))[..12];
        string folder = await cache.GetOrBuildAsync(
            Path.Combine("initramfs", $"{kernel.Version}-{key}"),
            async partial =>
            {
                progress?.Report($"Making the guest's initramfs for Linux {kernel.Version}");
                await WriteInitramfsAsync(Path.Combine(partial, "initramfs.gz"), kernel, available, builtin, busybox, tools, init, cancellation);
            },
            cancellation);
        return new GuestImage(kernel.Image, Path.Combine(folder, "initramfs.gz"));
    }

    private static async Task<string> GetBusyboxAsync(CacheFolder cache, IProgress<string>? progress, CancellationToken cancellation)
    {
        foreach (string installed in HostCommand.FindAll("busybox"))
        {
            if (ElfImage.IsStaticProgram(await File.ReadAllBytesAsync(installed, cancellation)))
                return installed;
        }

        string folder = await cache.GetOrBuildAsync(
            "busybox", partial => DebianPackage.UnpackAsync("busybox-static", partial, suite: null, progress, cancellation), cancellation);
        return new[] { "usr/bin/busybox", "bin/busybox" }.Select(path => Path.Combine(folder, path)).First(File.Exists);
    }

    private static async Task WriteInitramfsAsync(
        string path, GuestKernel kernel, KernelModules available, string builtin, string busybox, IReadOnlyList<GuestFile> tools, string init, CancellationToken cancellation)
    {
        IReadOnlyList<KernelModule> modules = await available.LoadAsync([.. BootModules, .. ExtraModules.Where(available.Has)], cancellation);
        string applets = await HostCommand.RunTextAsync([busybox, "--list"], "Install package busybox-static anew.", cancellation);

        await using FileStream file = File.Create(path);
        await using GZipStream zip = new(file, CompressionLevel.Fastest);
        CpioWriter cpio = new(zip);
        string modulesFolder = $"lib/modules/{kernel.Version}";
        string[] folders = ["bin", "dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", modulesFolder, .. tools.Select(tool => Path.GetDirectoryName(tool.Path)!)];
        foreach (string folder in folders.SelectMany(WithParents).Distinct().Order(StringComparer.Ordinal))
            cpio.Folder(folder);
        cpio.Link("sbin", "bin");
        cpio.File("init", Encoding.UTF8.GetBytes(init), executable: true);
        cpio.File("etc/passwd", "root::0:0:root:/root:/bin/sh\n"u8);
        cpio.File("etc/group", "root:x:0:\n"u8);
        cpio.File("bin/busybox", await File.ReadAllBytesAsync(busybox, cancellation), executable: true);
        HashSet<string> own = [.. tools.Select(tool => tool.Path), "bin/busybox"];
        foreach (string applet in applets.Split('\n', StringSplitOptions.RemoveEmptyEntries).Where(applet => !own.Contains($"bin/{applet}")))
            cpio.Link($"bin/{applet}", "busybox");
        foreach (GuestFile tool in tools)
            cpio.File(tool.Path, await File.ReadAllBytesAsync(tool.Source, cancellation), tool.IsProgram);
        foreach (KernelModule module in modules)
            cpio.File($"{modulesFolder}/{module.Name}.ko", module.Image);
        cpio.File($"{modulesFolder}/modules.dep", Encoding.UTF8.GetBytes(KernelModules.DependencyFile(modules)));
        // What modprobe is asked for and need not load.
        cpio.File($"{modulesFolder}/modules.builtin", Encoding.UTF8.GetBytes(builtin));
        foreach (string index in tools.Count == 0 ? [] : PciTools.ModuleIndexes)
            cpio.File($"{modulesFolder}/{index}", PciTools.EmptyModuleIndex);
        cpio.End();
    }

    // "a/b/c" as "a", "a/b" and "a/b/c".
    private static IEnumerable<string> WithParents(string folder)
    {
        for (int at = folder.IndexOf('/'); at >= 0; at = folder.IndexOf('/', at + 1))
            yield return folder[..at];
        yield return folder;
    }

    private static string ReadInit()
    {
        using Stream resource = Assembly.GetExecutingAssembly().GetManifestResourceStream("init.sh")!;
        using StreamReader reader = new(resource);
        return reader.ReadToEnd();
    }
}
