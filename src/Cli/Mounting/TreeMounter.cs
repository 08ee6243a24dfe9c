using System.Diagnostics;
using System.Globalization;
using Virtbus.Daemon;
using Virtbus.Platform;
using Virtbus.Transports.Fuse;

namespace Virtbus.Cli.Mounting;

/// <summary>Mounts the tree in this process's namespace, and hands the other end over to the daemon: as root of the namespace, else by fusermount3.</summary>
internal static class TreeMounter
{
    /// <summary>What the host's list of mounts calls it.</summary>
    public const string FileSystem = "virtbus";

    private const string Helper = "fusermount3";
    private const uint Root = 0;

    /// <summary>Mounts the tree. Nothing is left mounted when the daemon does not serve it.</summary>
    /// <param name="runtime">Whose tree.</param>
    /// <param name="folder">A folder that is there, absolute.</param>
    /// <exception cref="VirtbusException">ECONNREFUSED: no fabric; ENODEV: the host has no FUSE; EPERM: neither root nor fusermount3; else what these say.</exception>
    public static void Mount(RuntimeFolder runtime, string folder)
    {
        // First, so that nothing is mounted that nobody serves.
        using var daemon = UnixStream.TryConnect(runtime.MountSocket, out var error)
            ?? throw new VirtbusException(error, $"No running fabric takes mounts on {runtime.MountSocket} ({error}). Start one with 'virtbus up'.");
        using var device = TryMountAsRoot(folder) ?? MountByHelper(folder);
        try
        {
            FuseMounts.Ask(daemon, device, new FuseMountRequest(folder, FileOwner.CurrentUser, FileOwner.CurrentGroup));
        }
        catch
        {
            Unmount(folder);
            throw;
        }
    }

    /// <summary>Takes a mount of the tree away.</summary>
    /// <param name="folder">Where it is, absolute.</param>
    /// <exception cref="VirtbusException">EINVAL: none is there; EPERM: somebody else's.</exception>
    public static void Unmount(string folder)
    {
        var error = HostMounts.Unmount(folder);
        if (error == Errno.EPERM)
            Run(["-u", "-z", "--", folder], [], folder);
        else if (error != Errno.None)
            throw new VirtbusException(error, $"{folder} can't be unmounted: {error}.");
    }

    /// <summary>Whether a mount of a tree is there.</summary>
    /// <param name="folder">The folder, absolute.</param>
    public static bool IsMounted(string folder) => File.ReadLines("/proc/self/mountinfo").Any(line =>
        line.Split(" - ") is [var before, var after] && after.StartsWith($"fuse.{FileSystem} ", StringComparison.Ordinal)
        && before.Split(' ') is [_, _, _, _, var place, ..] && place == folder.Replace(" ", @"\040", StringComparison.Ordinal));

    private static FileDescriptor? TryMountAsRoot(string folder)
    {
        var device = FuseFile.TryOpen(out var error);
        if (error is Errno.ENOENT or Errno.ENODEV or Errno.ENXIO)
            throw new VirtbusException(Errno.ENODEV, $"This host has no FUSE ({error} at /dev/fuse). Load its module with 'modprobe fuse', or give the container the device /dev/fuse.");
        if (device is null)
            return null;
        // Who is root here decides for all users whether they may look.
        error = HostMounts.MountFuse(device, FileSystem, folder, forOthers: FileOwner.CurrentUser == Root);
        if (error == Errno.None)
            return device;
        device.Dispose();
        return error == Errno.EPERM ? null : throw new VirtbusException(error, $"The tree can't be mounted on {folder}: {error}.");
    }

    private static FileDescriptor MountByHelper(string folder)
    {
        var (ours, theirs) = UnixStream.CreatePair();
        using (ours)
        using (theirs)
        using (var inherited = theirs.Descriptor.DuplicateForChild())
        {
            Run(
                ["-o", $"rw,nosuid,nodev,fsname={FileSystem},subtype={FileSystem},default_permissions", "--", folder],
                [("_FUSE_COMMFD", inherited.Number.ToString(CultureInfo.InvariantCulture))],
                folder);
            var descriptors = new List<FileDescriptor>();
            return ours.Receive(new byte[1], descriptors, out _) >= 0 && descriptors is [var device]
                ? device
                : throw new VirtbusException(Errno.EIO, $"{Helper} mounted {folder} and gave no descriptor of it. Unmount it with '{Helper} -u {folder}'.");
        }
    }

    private static void Run(string[] arguments, (string Name, string Value)[] environment, string folder)
    {
        var start = new ProcessStartInfo(Helper, arguments) { RedirectStandardError = true, UseShellExecute = false };
        foreach (var (name, value) in environment)
            start.Environment[name] = value;
        try
        {
            using var helper = Process.Start(start)!;
            var words = helper.StandardError.ReadToEnd().Trim();
            helper.WaitForExit();
            if (helper.ExitCode != 0)
                throw new VirtbusException(Errno.EPERM, $"{Helper} refused {folder}: {(words.Length == 0 ? $"exit code {helper.ExitCode}" : words)}");
        }
        catch (System.ComponentModel.Win32Exception e)
        {
            throw new VirtbusException(
                Errno.EPERM, $"Only root may mount and unmount {folder}, and there is no {Helper} to do it for others. Install it (Debian: apt install fuse3), or run inside of 'unshare -rm'.", e);
        }
    }
}
