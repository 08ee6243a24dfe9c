using System.Globalization;

namespace Virtbus.Platform;

/// <summary>Mounts of the calling process's mount namespace (mount(2), umount(2)).</summary>
public static class HostMounts
{
    private const nuint MS_NOSUID = 2;
    private const nuint MS_NODEV = 4;
    private const nuint MS_NOEXEC = 8;
    private const nuint MS_BIND = 0x1000;
    private const nuint MS_REC = 0x4000;
    private const nuint MS_SLAVE = 1 << 19;
    private const int MNT_DETACH = 2;

    /// <summary>Mounts a file system whose requests come to a descriptor.</summary>
    /// <param name="device">An open <c>/dev/fuse</c> that no mount has yet.</param>
    /// <param name="source">What the list of mounts says it is.</param>
    /// <param name="folder">Where.</param>
    /// <param name="forOthers">Whether other users may enter too.</param>
    /// <returns>None; EPERM: not root of this namespace; ENOENT, ENOTDIR: no folder is there.</returns>
    public static unsafe Errno MountFuse(FileDescriptor device, string source, string folder, bool forOthers)
    {
        ArgumentNullException.ThrowIfNull(device);
        var held = false;
        try
        {
            device.DangerousAddRef(ref held);
            var (user, group) = (FileOwner.CurrentUser, FileOwner.CurrentGroup);
            var options = string.Create(
                CultureInfo.InvariantCulture, $"fd={device.Number},rootmode=40000,user_id={user},group_id={group},default_permissions{(forOthers ? ",allow_other" : "")}");
            return Libc.mount(source, folder, "fuse." + source, MS_NOSUID | MS_NODEV | MS_NOEXEC, options) == 0 ? Errno.None : Libc.LastError;
        }
        finally
        {
            if (held)
                device.DangerousRelease();
        }
    }

    /// <summary>Puts an empty folder over another one, kept in memory.</summary>
    /// <param name="folder">The folder.</param>
    /// <returns>None, or the errno.</returns>
    public static Errno MountMemory(string folder) => Libc.mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755") == 0 ? Errno.None : Libc.LastError;

    /// <summary>Shows a folder in another place too, with what is mounted below it.</summary>
    /// <param name="source">The folder.</param>
    /// <param name="folder">The place.</param>
    /// <returns>None, or the errno.</returns>
    public static Errno Bind(string source, string folder) => Libc.mount(source, folder, null, MS_BIND | MS_REC, null) == 0 ? Errno.None : Libc.LastError;

    /// <summary>Keeps what is mounted from here on from being seen in other namespaces.</summary>
    /// <returns>None, or the errno.</returns>
    public static Errno KeepToSelf() => Libc.mount("none", "/", null, MS_SLAVE | MS_REC, null) == 0 ? Errno.None : Libc.LastError;

    /// <summary>Takes a mount away: out of the tree at once, and for good when its last open file is closed.</summary>
    /// <param name="folder">Where it is.</param>
    /// <returns>None; EPERM: not root of this namespace; EINVAL: nothing is mounted there.</returns>
    public static Errno Unmount(string folder) => Libc.umount2(folder, MNT_DETACH) == 0 ? Errno.None : Libc.LastError;
}
