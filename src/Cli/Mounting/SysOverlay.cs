using Virtbus.Daemon;
using Virtbus.Daemon.Api;
using Virtbus.Platform;

namespace Virtbus.Cli.Mounting;

/// <summary>
/// A command that sees the fabric's tree where it looks for the kernel's: in a mount namespace of its own, and where the caller is no root a user
/// namespace in which it is.
/// </summary>
internal static class SysOverlay
{
    /// <summary>The option by which the program says to itself that it is inside.</summary>
    public const string Inside = "--inside";

    private const string Sys = "/sys";
    private const string ModprobeFolder = "/etc/modprobe.d";
    private const uint Root = 0;
    // What the fabric has no say in, and programs want to know of: processors and memory, control groups, security modules.
    private static readonly string[] HostParts = ["devices/system", "fs", "kernel/mm", "kernel/security", "firmware"];

    /// <summary>Goes into namespaces, in which the same verb is run again. Does not return.</summary>
    /// <param name="runtime">Whose tree.</param>
    /// <param name="command">The command.</param>
    /// <exception cref="VirtbusException">The host has no 'unshare'.</exception>
    public static int Enter(RuntimeFolder runtime, IReadOnlyList<string> command)
    {
        // Its place by default is another one to another user.
        Environment.SetEnvironmentVariable("VIRTBUS_RUNTIME", runtime.Path);
        string[] namespaces = FileOwner.CurrentUser == Root ? ["-m"] : ["-rm"];
        var error = ProcessImage.Replace(["unshare", .. namespaces, "--", Environment.ProcessPath!, "mount", "--over-sys", Inside, "--", .. command]);
        throw new VirtbusException(error, $"'unshare' can't be run: {error}. Install util-linux.");
    }

    /// <summary>Mounts the tree over /sys with the host's other parts in it, and runs the command in this process's place. Does not return.</summary>
    /// <param name="client">Whose tree.</param>
    /// <param name="command">The command.</param>
    /// <exception cref="VirtbusException">What can't be mounted; ENOENT, EACCES: the command can't be run.</exception>
    public static int Run(ControlClient client, IReadOnlyList<string> command)
    {
        var runtime = client.Runtime;
        Require(HostMounts.KeepToSelf(), "keeping mounts to this namespace");
        var aside = Directory.CreateTempSubdirectory("virtbus-sys-").FullName;
        try
        {
            Require(HostMounts.Bind(Sys, aside), $"setting {Sys} aside on {aside}");
            TreeMounter.Mount(runtime, Sys);
            foreach (var part in HostParts)
            {
                if (Directory.Exists(Path.Combine(aside, part)) && Directory.Exists(Path.Combine(Sys, part)))
                    Require(HostMounts.Bind(Path.Combine(aside, part), Path.Combine(Sys, part)), $"showing the host's {Sys}/{part}");
            }
        }
        finally
        {
            _ = HostMounts.Unmount(aside);
            Directory.Delete(aside);
        }

        ServeModprobe(client);
        // libudev takes no file system but the kernel's for /sys without it.
        Environment.SetEnvironmentVariable("SYSTEMD_DEVICE_VERIFY_SYSFS", "0");
        var error = ProcessImage.Replace(command);
        throw new VirtbusException(error, $"'{command[0]}' can't be run: {error}. {(error == Errno.ENOENT ? "Is it installed, and on the PATH?" : "May it be executed?")}");
    }

    // The fabric's modules are no files that modprobe knows; it runs what its configuration says for a name, and finds names by aliases there.
    private static void ServeModprobe(ControlClient client)
    {
        if (!Directory.Exists(ModprobeFolder))
            return;
        var there = Directory.GetFiles(ModprobeFolder, "*.conf").Select(static f => (Path.GetFileName(f), File.ReadAllBytes(f))).ToArray();
        var modules = client.Ask("GET", "/v1/modules", ApiJson.Default.IReadOnlyListModuleAnswer);
        Require(HostMounts.MountMemory(ModprobeFolder), $"an own {ModprobeFolder}");
        foreach (var (name, bytes) in there)
            File.WriteAllBytes(Path.Combine(ModprobeFolder, name), bytes);
        var program = ShellQuote.Quote(Environment.ProcessPath!);
        File.WriteAllLines(Path.Combine(ModprobeFolder, "virtbus.conf"), modules.Where(static m => m.State != "skipped").SelectMany(m => new[]
        {
            $"install {m.Name} {program} module load {m.Name} >/dev/null",
            $"remove {m.Name} {program} module unload {m.Name} >/dev/null",
        }.Concat((m.Aliases ?? []).Select(a => $"alias {a} {m.Name}"))));
    }

    private static void Require(Errno error, string what)
    {
        if (error != Errno.None)
            throw new VirtbusException(error, $"The host refused {what}: {error}. Are user namespaces allowed here (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces)?");
    }
}
