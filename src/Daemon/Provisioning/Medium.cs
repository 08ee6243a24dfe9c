using Microsoft.Extensions.Logging;
using Virtbus.Block;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Daemon.Provisioning;

/// <summary>Where a disk's sectors are, as attributes of its profile.</summary>
internal static partial class Medium
{
    private static readonly ProfileField<string> FilePath = ProfileFields.Text("file", "the absolute path of a file with the sectors", Path.IsPathRooted);
    private static readonly ProfileField<long> Memory = ProfileFields.Size("memory", 512);
    private static readonly ProfileField<long> Null = ProfileFields.Size("null", 512);
    private static readonly ProfileField<string> Format = ProfileFields.Choice("format", ["raw"]);
    private static readonly ProfileField<bool> Direct = ProfileFields.Flag("direct");
    private static readonly ProfileField<bool> ReadOnly = ProfileFields.Flag("readonly");
    private static readonly ProfileField[] Backings = [FilePath, Memory, Null];

    /// <summary>The attributes.</summary>
    public static readonly IReadOnlyList<ProfileField> Fields = [.. Backings, Format, Direct, ReadOnly];

    /// <summary>Refuses what does not go together.</summary>
    /// <exception cref="VirtbusException">EINVAL: more than one place, or a file's attributes without one.</exception>
    public static void Check(FunctionProfile profile)
    {
        var backings = Backings.Where(profile.IsSet).ToList();
        if (backings.Count > 1)
            throw new VirtbusException(Errno.EINVAL, $"Function '{profile.Name}' has exactly one of {string.Join<ProfileField>(", ", Backings)}; this has {string.Join(", ", backings)}. Keep one.");
        if (backings.Count == 1 && !profile.IsSet(FilePath) && (profile.IsSet(Format) || profile.Get(Direct)))
            throw new VirtbusException(Errno.EINVAL, $"Function '{profile.Name}': only a file has a format and a page cache to pass by, and this disk is in none. Take format and direct away.");
    }

    /// <summary>What a profile lacks.</summary>
    public static IEnumerable<string> FindMissing(FunctionProfile profile) =>
        Backings.Any(profile.IsSet) ? [] : [$"one of {string.Join<ProfileField>(", ", Backings)}"];

    /// <summary>What an attribute of these is when nobody said so; null for what its declaration says.</summary>
    public static string? DescribeStandard(FunctionProfile profile, ProfileField field) => field == Format && profile.IsSet(FilePath) ? "raw" : null;

    /// <summary>Whether it is a file.</summary>
    public static bool IsFile(FunctionProfile profile) => profile.IsSet(FilePath);

    /// <summary>Opens it; it is the caller's.</summary>
    /// <exception cref="VirtbusException">It can't be opened.</exception>
    public static IBlockBackend Open(FunctionProfile profile, ILogger logger) => Open(profile, profile.Name, profile.TryGet(FilePath, out var path) ? path : "", logger);

    /// <summary>Opens another like it; it is the caller's.</summary>
    /// <param name="profile">The profile.</param>
    /// <param name="disk">The disk's name.</param>
    /// <param name="path">The other's file, where it is one.</param>
    /// <param name="logger">Where to.</param>
    /// <exception cref="VirtbusException">It can't be opened.</exception>
    public static IBlockBackend Open(FunctionProfile profile, string disk, string path, ILogger logger)
    {
        var medium = profile switch
        {
            _ when profile.IsSet(FilePath) => FileBackend.Open(path, profile.Get(ReadOnly), raw: profile.IsSet(Format), direct: profile.Get(Direct)),
            _ when profile.IsSet(Memory) => new MemoryBackend(profile.Get(Memory), readOnly: profile.Get(ReadOnly)),
            _ => (IBlockBackend)new NullBackend(profile.Get(Null), readOnly: profile.Get(ReadOnly)),
        };
        if (medium is FileBackend file)
            Watch(file, disk, logger);
        return medium;
    }

    private static void Watch(FileBackend file, string disk, ILogger logger)
    {
        if (file.WhyNoUring is { } why)
            WithoutUring(logger, disk, why);
        file.FlushFailed += (_, _) => WritesLost(logger, disk, file.Description, file.FailedFlush);
    }

    [LoggerMessage(630, LogLevel.Warning, "Disk {Disk} does without io_uring, by threads that wait, which is slower. {Reason}")]
    private static partial void WithoutUring(ILogger logger, string disk, string reason);

    [LoggerMessage(631, LogLevel.Error, "Disk {Disk}: the host could not write what was in the page cache of {File}: {Error}. Some of what was written since the last "
        + "flush is lost, and each flush fails from now on. Mend the host's storage, take the fabric down and up, and have the guest check its file system")]
    private static partial void WritesLost(ILogger logger, string disk, string file, Errno error);
}
