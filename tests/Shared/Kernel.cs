namespace Virtbus.Tests;

/// <summary>What the kernel says that this process holds.</summary>
internal static class Kernel
{
    /// <summary>Descriptors of the kinds that Virtbus opens and peers send; the runtime opens and closes its own meanwhile.
    /// Those that are being closed are waited for.</summary>
    internal static int Descriptors => !Virtbus.Platform.PeerDescriptors.WaitUntilClosed(TimeSpan.FromSeconds(20)) ? -1 : Directory.EnumerateFileSystemEntries("/proc/self/fd").Count(entry =>
        new FileInfo(entry).LinkTarget is { } target &&
        (target.StartsWith("socket:", StringComparison.Ordinal) || target.StartsWith("/memfd:virtbus", StringComparison.Ordinal) ||
            target is "anon_inode:[eventfd]" or "anon_inode:[eventpoll]"));

    /// <summary>The descriptors before a test's work: what tests before it left to the collector goes first, not in the middle of the work.</summary>
    internal static int DescriptorsBefore()
    {
        Leftovers.Clear();
        return Descriptors;
    }

    /// <summary>Mappings of memory files, whoever made them.</summary>
    internal static int Mappings => File.ReadLines("/proc/self/maps").Count(line => line.Contains("/memfd:virtbus", StringComparison.Ordinal));

    /// <summary>What /proc says of the mapping that begins at an address, or before it.</summary>
    internal static string MappingAt(nint address) => File.ReadLines("/proc/self/maps").Last(line =>
        ulong.Parse(line[..line.IndexOf('-', StringComparison.Ordinal)], System.Globalization.NumberStyles.HexNumber, System.Globalization.CultureInfo.InvariantCulture) <= (ulong)address);
}
