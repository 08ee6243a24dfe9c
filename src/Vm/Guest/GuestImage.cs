using System.IO.Compression;
using System.Reflection;
using System.Security.Cryptography;
using System.Text;

namespace Virtbus.Vm;

/// <summary>What a guest boots: a kernel, and an initramfs of busybox, the kernel's virtio modules and our init script.</summary>
/// <param name="Kernel">Path of the kernel image.</param>
/// <param name="Initramfs">Path of the initramfs.</param>
internal sealed record GuestImage(string Kernel, string Initramfs)
{
    /// <summary>The modules that the init script loads.</summary>
    public static readonly IReadOnlyList<string> BootModules = ["virtio_pci", "virtio_blk", "virtio_console"];

    // For modprobe by hand or by COMMAND; a kernel that lacks one is as good.
    private static readonly string[] ExtraModules =
        ["virtio_net", "virtio_rng", "vfio_pci", "vfio_iommu_type1", "uio_pci_generic", "vdpa", "vhost_vdpa", "virtio_vdpa"];

    /// <summary>Gives the image, making what the cache does not hold.</summary>
    public static async Task<GuestImage> GetAsync(CacheFolder cache, IProgress<string>? progress, CancellationToken cancellation)
    {
        GuestKernel kernel = await GuestKernel.GetAsync(cache, progress, cancellation);
        string busybox = await GetBusyboxAsync(cache, progress, cancellation);
        string init = ReadInit();
        FileInfo tool = new(busybox);
        string recipe = string.Join('\n', kernel.Modules, busybox, tool.Length, tool.LastWriteTimeUtc.Ticks, string.Join(' ', ExtraModules), init);
        string key = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(recipe)))[..12];
        string folder = await cache.GetOrBuildAsync(
            Path.Combine("initramfs", $"{kernel.Version}-{key}"),
            async partial =>
            {
                progress?.Report($"Making the guest's initramfs for Linux {kernel.Version}");
                await WriteInitramfsAsync(Path.Combine(partial, "initramfs.gz"), kernel, busybox, init, cancellation);
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
            "busybox", partial => DebianPackage.UnpackAsync("busybox-static", partial, progress, cancellation), cancellation);
        return new[] { "usr/bin/busybox", "bin/busybox" }.Select(path => Path.Combine(folder, path)).First(File.Exists);
    }

    private static async Task WriteInitramfsAsync(string path, GuestKernel kernel, string busybox, string init, CancellationToken cancellation)
    {
        KernelModules available = KernelModules.Open(kernel.Modules);
        IReadOnlyList<KernelModule> modules = await available.LoadAsync([.. BootModules, .. ExtraModules.Where(available.Has)], cancellation);
        string applets = await HostCommand.RunTextAsync([busybox, "--list"], "Install package busybox-static anew.", cancellation);

        await using FileStream file = File.Create(path);
        await using GZipStream zip = new(file, CompressionLevel.Fastest);
        CpioWriter cpio = new(zip);
        foreach (string folder in new[] { "bin", "dev", "etc", "lib", "lib/modules", $"lib/modules/{kernel.Version}", "mnt", "proc", "root", "run", "sys", "tmp" })
            cpio.Folder(folder);
        cpio.Link("sbin", "bin");
        cpio.File("init", Encoding.UTF8.GetBytes(init), executable: true);
        cpio.File("etc/passwd", "root::0:0:root:/root:/bin/sh\n"u8);
        cpio.File("etc/group", "root:x:0:\n"u8);
        cpio.File("bin/busybox", await File.ReadAllBytesAsync(busybox, cancellation), executable: true);
        foreach (string applet in applets.Split('\n', StringSplitOptions.RemoveEmptyEntries).Where(applet => applet != "busybox"))
            cpio.Link($"bin/{applet}", "busybox");
        foreach (KernelModule module in modules)
            cpio.File($"lib/modules/{kernel.Version}/{module.Name}.ko", module.Image);
        cpio.File($"lib/modules/{kernel.Version}/modules.dep", Encoding.UTF8.GetBytes(KernelModules.DependencyFile(modules)));
        cpio.End();
    }

    private static string ReadInit()
    {
        using Stream resource = Assembly.GetExecutingAssembly().GetManifestResourceStream("init.sh")!;
        using StreamReader reader = new(resource);
        return reader.ReadToEnd();
    }
}
