using Virtbus.Platform;

namespace Virtbus.Vm;

/// <summary>
/// A private QEMU 11 for a machine whose own QEMU lacks a device: a minimal Debian trixie with QEMU from its backports, in the cache.
/// Its QEMU runs through its own dynamic loader, without chroot, so sockets and files keep their paths and no privilege is needed.
/// </summary>
internal static class QemuRoot
{
    private const string EntryName = "qemu-trixie-backports";
    private const string Suite = "trixie";
    private const string Remedy = "Check the machine's network and apt sources, or set VIRTBUS_QEMU to a QEMU that has the device.";

    /// <summary>The private QEMU if it was made before, else null.</summary>
    public static QemuProgram? Find(CacheFolder cache)
    {
        string root = cache.PathOf(EntryName);
        return Directory.Exists(root) ? ProgramIn(root) : null;
    }

    /// <summary>Makes the private QEMU: about a minute and 350 MB. Needs root, debootstrap and a Debian mirror.</summary>
    public static async Task<QemuProgram> MakeAsync(CacheFolder cache, string device, IProgress<string>? progress, CancellationToken cancellation)
    {
        string missing = $"No QEMU on this machine has the device '{device}' (QEMU 10.1 or later has all that we use)";
        const string instead = "set VIRTBUS_QEMU to one that has it";
        if (!Environment.IsPrivilegedProcess)
            throw new VirtbusException(Errno.EPERM, $"{missing}. Run this once as root, so that a private QEMU is made in '{cache.Root}', or {instead}.");
        if (HostCommand.Find("debootstrap") is not { } debootstrap)
            throw new VirtbusException(Errno.ENOENT, $"{missing}, and debootstrap is missing to make one. Run 'apt-get install debootstrap', or {instead}.");

        string mirror = AptSources.DebianMirror("/etc/apt");
        string root = await cache.GetOrBuildAsync(
            EntryName,
            async partial =>
            {
                progress?.Report($"Making a private QEMU in '{cache.Root}': about a minute and 350 MB, once");
                progress?.Report($"1 of 3: Debian {Suite}, with debootstrap");
                // In a mount namespace of its own, so that what debootstrap mounts can never be left behind or deleted through.
                await RunAsync([debootstrap, "--variant=minbase", Suite, partial, mirror], cancellation);
                await File.WriteAllTextAsync(
                    Path.Combine(partial, "etc/apt/sources.list.d/backports.list"), $"deb {mirror} {Suite}-backports main\n", cancellation);
                progress?.Report("2 of 3: package lists");
                await RunAsync(["chroot", partial, "apt-get", "update"], cancellation);
                progress?.Report("3 of 3: QEMU");
                await RunAsync(
                    ["chroot", partial, "apt-get", "install", "-y", "--no-install-recommends", "-t", $"{Suite}-backports", "qemu-system-x86"],
                    cancellation);
                await RunAsync(["chroot", partial, "apt-get", "clean"], cancellation);
                ForgetModuleFolder(Path.Combine(partial, "usr/bin/qemu-system-x86_64"));
            },
            cancellation);
        return ProgramIn(root);
    }

    /// <summary>
    /// Changes the folder in which a QEMU looks for its loadable modules to one that does not exist. Run outside its root, it would find
    /// the modules of the machine's own QEMU there, and aborts over their version. What we use is built in.
    /// </summary>
    public static void ForgetModuleFolder(string program)
    {
        ReadOnlySpan<byte> folder = "/usr/lib/x86_64-linux-gnu/qemu\0"u8;
        ReadOnlySpan<byte> nowhere = "/usr/lib/x86_64-linux-gnu/none\0"u8;
        byte[] image = File.ReadAllBytes(program);
        for (int at = image.AsSpan().IndexOf(folder); at >= 0; at = image.AsSpan().IndexOf(folder))
            nowhere.CopyTo(image.AsSpan(at));
        File.WriteAllBytes(program, image);
    }

    private static QemuProgram ProgramIn(string root)
    {
        string libraries = Path.Combine(root, "usr/lib/x86_64-linux-gnu");
        string program = Path.Combine(root, "usr/bin/qemu-system-x86_64");
        return new QemuProgram(
            program,
            [
                Path.Combine(libraries, "ld-linux-x86-64.so.2"), "--library-path", libraries, program,
                "-L", Path.Combine(root, "usr/share/qemu"), "-L", Path.Combine(root, "usr/share/seabios"),
            ]);
    }

    private static Task RunAsync(IReadOnlyList<string> command, CancellationToken cancellation) =>
        HostCommand.RunAsync(["unshare", "--mount", "--", .. command], Remedy, cancellation);
}
