using Virtbus.Platform;

namespace Virtbus.Vm;

/// <summary>A file for the guest.</summary>
/// <param name="Path">Where it goes in the guest, without the slash in front.</param>
/// <param name="Source">Where it is on the host.</param>
/// <param name="IsProgram">Whether it is executable.</param>
internal sealed record GuestFile(string Path, string Source, bool IsProgram);

/// <summary>lspci and setpci with all that they need to run in a guest: installed ones, else those of Debian's packages.</summary>
internal static class PciTools
{
    /// <summary>The programs.</summary>
    public static readonly IReadOnlyList<string> Programs = ["lspci", "setpci"];

    /// <summary>
    /// What libkmod reads before lspci asks it which modules a device could have. An index without entries (magic, version, no root) says
    /// that it knows none; without the files lspci complains each time.
    /// </summary>
    public static readonly IReadOnlyList<string> ModuleIndexes =
        ["modules.dep.bin", "modules.alias.bin", "modules.symbols.bin", "modules.builtin.bin", "modules.builtin.alias.bin"];

    private static readonly string[] Packages = ["pciutils", "libpci3", "libkmod2", "pci.ids"];
    private static readonly string[] IdFolders = ["usr/share/misc", "usr/share/hwdata"];

    /// <summary>An index without entries, as depmod would write it.</summary>
    public static ReadOnlySpan<byte> EmptyModuleIndex => [0xB0, 0x07, 0xF4, 0x57, 0x00, 0x02, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00];

    /// <summary>Finds the files or fetches them. Throws ENOENT when a library is missing on this machine.</summary>
    public static async Task<IReadOnlyList<GuestFile>> GetAsync(CacheFolder cache, IProgress<string>? progress, CancellationToken cancellation)
    {
        if (Programs.All(name => HostCommand.Find(name) is not null))
            return await CollectAsync([.. Programs.Select(name => HostCommand.Find(name)!)], "/", libraries: null, cancellation);
        string folder = await cache.GetOrBuildAsync(
            "pciutils",
            async partial =>
            {
                foreach (string package in Packages)
                    await DebianPackage.UnpackAsync(package, partial, suite: null, progress, cancellation);
            },
            cancellation);
        string[] programs = [.. Programs.Select(name => Path.Combine(folder, "usr/bin", name))];
        return await CollectAsync(programs, folder, Path.Combine(folder, "usr/lib/x86_64-linux-gnu"), cancellation);
    }

    /// <summary>Reads what ldd prints: libraries by name, and the loader, which is wanted at its own path.</summary>
    /// <param name="text">The output of ldd for one program.</param>
    /// <param name="program">The program, for the error.</param>
    public static IReadOnlyList<GuestFile> ParseLibraries(string text, string program)
    {
        List<GuestFile> files = [];
        foreach (string line in text.Split('\n'))
        {
            string[] words = line.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);
            if (words is [var missing, "=>", "not", ..])
                throw new VirtbusException(Errno.ENOENT, $"'{program}' needs library '{missing}', which this machine has not. Install package pciutils.");
            if (words is [var name, "=>", ['/', ..] path, ..])
                files.Add(new GuestFile($"lib/{Path.GetFileName(name)}", path, IsProgram: false));
            else if (words is [['/', ..] loader, ..])
                files.Add(new GuestFile(loader[1..], loader, IsProgram: true));
        }

        return files;
    }

    private static async Task<IReadOnlyList<GuestFile>> CollectAsync(
        IReadOnlyList<string> programs, string root, string? libraries, CancellationToken cancellation)
    {
        List<GuestFile> files = [];
        foreach (string program in programs)
        {
            files.Add(new GuestFile($"bin/{Path.GetFileName(program)}", program, IsProgram: true));
            string text = await HostCommand.RunTextAsync(
                ["env", $"LD_LIBRARY_PATH={libraries}", "ldd", program], "Install package pciutils.", cancellation);
            files.AddRange(ParseLibraries(text, program));
        }

        // Names of vendors and devices are a comfort: numbers are shown without it.
        if (IdFolders.Select(folder => Path.Combine(root, folder, "pci.ids")).FirstOrDefault(File.Exists) is { } ids)
            files.Add(new GuestFile("usr/share/misc/pci.ids", ids, IsProgram: false));
        return [.. files.DistinctBy(file => file.Path)];
    }
}
