using System.IO.Compression;
using Virtbus.Platform;

namespace Virtbus.Vm;

/// <summary>A loadable module, decompressed.</summary>
/// <param name="Name">The name, with underscores as the kernel spells it.</param>
/// <param name="Image">The ELF image that insmod takes.</param>
/// <param name="Needs">The modules that it names in its "depends" line.</param>
internal sealed record KernelModule(string Name, byte[] Image, IReadOnlyList<string> Needs);

/// <summary>
/// The modules of one kernel. What a module needs is read from the module itself (the "depends" line of .modinfo), since a kernel package
/// that is unpacked and not installed has no modules.dep: depmod would write it at install time.
/// </summary>
internal sealed class KernelModules
{
    private readonly Dictionary<string, string> _files = [];
    private readonly HashSet<string> _builtin = [];
    private readonly string _folder;

    private KernelModules(string folder) => _folder = folder;

    /// <summary>Lists the modules under /lib/modules/VERSION.</summary>
    public static KernelModules Open(string folder)
    {
        KernelModules modules = new(folder);
        foreach (string file in Directory.EnumerateFiles(folder, "*.ko*", SearchOption.AllDirectories))
            modules._files.TryAdd(NameOf(file), file);
        string builtin = Path.Combine(folder, "modules.builtin");
        if (File.Exists(builtin))
            modules._builtin.UnionWith(File.ReadLines(builtin).Select(NameOf));
        return modules;
    }

    /// <summary>True when the kernel has the driver, as a module or built in.</summary>
    public bool Has(string name) => _files.ContainsKey(name) || _builtin.Contains(name);

    /// <summary>True when the kernel has the driver built in, so that there is no module of it.</summary>
    public bool IsBuiltin(string name) => _builtin.Contains(name);

    /// <summary>
    /// The modules asked for and all that they need, each after what it needs. What is built in needs no module and is left out.
    /// </summary>
    public async Task<IReadOnlyList<KernelModule>> LoadAsync(IEnumerable<string> names, CancellationToken cancellation)
    {
        Dictionary<string, KernelModule> read = [];
        List<string> queue = [.. names];
        for (int i = 0; i < queue.Count; i++)
        {
            string name = queue[i];
            if (read.ContainsKey(name) || _builtin.Contains(name))
                continue;
            if (!_files.TryGetValue(name, out string? file))
                throw new VirtbusException(Errno.ENOENT, $"The kernel under '{_folder}' has no module '{name}'. Install a Debian cloud or generic kernel.");
            byte[] image = await ReadAsync(file, cancellation);
            string needs = ElfImage.ModuleInfo(image).FirstOrDefault(line => line.Key == "depends").Value ?? "";
            read[name] = new KernelModule(name, image, [.. needs.Split(',', StringSplitOptions.RemoveEmptyEntries).Select(NameOf)]);
            queue.AddRange(read[name].Needs);
        }

        return Order(read);
    }

    /// <summary>Puts every module after those that it needs; equal sets give equal orders.</summary>
    public static IReadOnlyList<KernelModule> Order(IReadOnlyDictionary<string, KernelModule> modules)
    {
        List<KernelModule> order = [];
        HashSet<string> seen = [];
        void Visit(KernelModule module)
        {
            if (!seen.Add(module.Name))
                return;
            foreach (string need in module.Needs)
            {
                if (modules.TryGetValue(need, out KernelModule? needed))
                    Visit(needed);
            }

            order.Add(module);
        }

        foreach (KernelModule module in modules.Values.OrderBy(module => module.Name, StringComparer.Ordinal))
            Visit(module);
        return order;
    }

    /// <summary>The modules.dep for modprobe in the guest: a line a module, with all that it needs, the deepest last.</summary>
    public static string DependencyFile(IReadOnlyList<KernelModule> ordered)
    {
        Dictionary<string, KernelModule> byName = ordered.ToDictionary(module => module.Name);
        IEnumerable<string> Lines()
        {
            foreach (KernelModule module in ordered)
            {
                HashSet<string> all = [];
                Collect(byName, module, all);
                IEnumerable<string> needs = ordered.Where(other => all.Contains(other.Name)).Reverse().Select(other => $" {other.Name}.ko");
                yield return $"{module.Name}.ko:{string.Concat(needs)}\n";
            }
        }

        return string.Concat(Lines());
    }

    private static void Collect(Dictionary<string, KernelModule> byName, KernelModule module, HashSet<string> all)
    {
        foreach (string need in module.Needs)
        {
            if (byName.TryGetValue(need, out KernelModule? needed) && all.Add(need))
                Collect(byName, needed, all);
        }
    }

    private static string NameOf(string file)
    {
        string name = Path.GetFileName(file);
        int extension = name.IndexOf(".ko", StringComparison.Ordinal);
        return ModuleName.Of(extension < 0 ? name : name[..extension]);
    }

    private static async Task<byte[]> ReadAsync(string file, CancellationToken cancellation)
    {
        switch (Path.GetExtension(file))
        {
            case ".xz":
                return await HostCommand.RunAsync(["xz", "-dc", file], "Install it: apt-get install xz-utils.", cancellation);
            case ".zst":
                return await HostCommand.RunAsync(["zstd", "-dcq", file], "Install it: apt-get install zstd.", cancellation);
            case ".gz":
                await using (GZipStream unzip = new(File.OpenRead(file), CompressionMode.Decompress))
                {
                    using MemoryStream image = new();
                    await unzip.CopyToAsync(image, cancellation);
                    return image.ToArray();
                }

            default:
                return await File.ReadAllBytesAsync(file, cancellation);
        }
    }
}
