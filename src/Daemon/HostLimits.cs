using System.Globalization;
using Virtbus.Daemon.Manifest;
using Virtbus.Platform;

namespace Virtbus.Daemon;

/// <summary>
/// The limits that the host sets for this process (getrlimit), held against what a fabric takes. At its limit the runtime fails in ways that
/// nobody can read, so a fabric that will not fit is refused before anything is made. Guests' memory is not counted here: who maps too much of it
/// is refused then.
/// </summary>
internal static class HostLimits
{
    // The runtime and its assemblies hold about 200; the rest is for clients.
    private const long LeastFiles = 512;
    // A listener, an epoll, eventfds and what a client brings.
    private const long FilesOfSocket = 8;
    private const long LeastSpace = 8L << 30;
    // The runtime's own code lies in a memory file.
    private const long LeastFileSize = 64L << 20;
    private const long LeastThreads = 64;
    private const string Unlimited = "unlimited";
    private const int NameWidth = 26;
    private const int ValueWidth = 21;

    /// <summary>Refuses to go on below what a fabric takes.</summary>
    /// <param name="manifest">The fabric; null for the smallest.</param>
    /// <exception cref="VirtbusException">E2BIG: names the limit, its value, what is needed and how to raise it.</exception>
    public static void Check(FabricManifest? manifest)
    {
        var sockets = manifest is null ? 0 : manifest.Disks.Count + manifest.Serials.Count + manifest.Functions.Count + manifest.Functions.Count(f => f.Virtio?.Type.Value == VirtioType.Console) + manifest.Adapters.Sum(a => (long)a.VirtualFunctions.Value) + manifest.Functions.Sum(f => (long)(f.Virtio?.VirtualFunctions?.Value ?? 0));
        long[] media = [.. (manifest?.AllDisks() ?? []).Select(d => d.Backing.Value).OfType<DiskBacking.Memory>().Select(m => m.Bytes)];
        var virtualMedia = manifest?.Functions.Sum(f => (f.Virtio?.Disk?.Backing.Value as DiskBacking.Memory)?.Bytes * f.Virtio?.VirtualFunctions?.Value) ?? 0;
        var lines = File.ReadAllLines("/proc/self/limits");
        Require(lines, "Max open files", isHard: true, LeastFiles + (FilesOfSocket * sockets), "open files", "-n", "LimitNOFILE", 1);
        Require(lines, "Max address space", isHard: false, LeastSpace + media.Sum() + virtualMedia, "address space in KiB", "-v", "LimitAS", 1024);
        Require(lines, "Max file size", isHard: false, media.Append(LeastFileSize).Max(), "file size in KiB", "-f", "LimitFSIZE", 1024);
        // It is of all processes of the user, and not of root.
        if (FileOwner.CurrentUser != 0 && Find(lines, "Max processes", isHard: false) is { } processes && processes - ThreadsOfUser(processes) < LeastThreads)
        {
            throw new VirtbusException(
                Errno.E2BIG,
                $"The limit of processes and threads of user {FileOwner.CurrentUser} (ulimit -u) is {processes}, and fewer than the {LeastThreads} that a fabric needs are left. Raise it with 'ulimit -u {processes + LeastThreads}' or LimitNPROC= of the service, or end some processes.");
        }
    }

    private static void Require(string[] lines, string name, bool isHard, long needed, string what, string option, string setting, long unit)
    {
        if (Find(lines, name, isHard) is not { } limit || limit >= needed)
            return;
        throw new VirtbusException(
            Errno.E2BIG,
            $"The limit of {what} (ulimit {option}) is {limit / unit}, and this fabric needs {(needed + unit - 1) / unit}. Raise it with 'ulimit {option} {(needed + unit - 1) / unit}', as root where it is a hard limit, or {setting}= of the service.");
    }

    // Null where there is no limit.
    private static long? Find(string[] lines, string name, bool isHard)
    {
        var line = lines.FirstOrDefault(l => l.StartsWith(name, StringComparison.Ordinal));
        if (line is null || line.Length < NameWidth + (2 * ValueWidth))
            return null;
        // The runtime raises the soft limit of files to the hard one itself.
        var value = line.AsSpan(NameWidth + (isHard ? ValueWidth : 0), ValueWidth).Trim();
        return value.SequenceEqual(Unlimited) ? null : long.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out var limit) ? limit : null;
    }

    // Not counted where the limit is out of reach: that would take longer than the rest of the start.
    private static long ThreadsOfUser(long limit)
    {
        const long FarAway = 8192;
        if (limit >= FarAway)
            return 0;
        var count = 0L;
        foreach (var process in Directory.EnumerateDirectories("/proc").Where(p => char.IsAsciiDigit(Path.GetFileName(p)[0])))
        {
            try
            {
                if (FileOwner.Of(process) == FileOwner.CurrentUser)
                    count += Directory.GetDirectories(process + "/task").Length;
            }
            catch (Exception e) when (e is VirtbusException or IOException or UnauthorizedAccessException)
            {
                // It has ended meanwhile.
            }
        }
        return count;
    }
}
