using Microsoft.Extensions.Logging;
using Virtbus.Block;
using Virtbus.Daemon.Manifest;
using Virtbus.Platform;
using Virtbus.Provisioning;

namespace Virtbus.Daemon.Provisioning;

/// <summary>Where the disks of a disk's virtual functions are: where its own is, each in memory or in a file of its own.</summary>
internal static class VirtualMedia
{
    private const char Number = '%';

    private static readonly ProfileField<string> Files = ProfileFields.Text(
        "vf_file", "the absolute path of the file of each virtual function's disk, with one % that stands for its number", static t => Path.IsPathRooted(t) && IsPattern(t));

    /// <summary>The attributes.</summary>
    public static readonly IReadOnlyList<ProfileField> Fields = [Files];

    /// <summary>Whether a path has a place for the number.</summary>
    public static bool IsPattern(string path) => path.IndexOf(Number) is >= 0 and var at && path.LastIndexOf(Number) == at;

    /// <summary>The file of a virtual function.</summary>
    /// <param name="pattern">See <see cref="IsPattern"/>.</param>
    /// <param name="index">Its number.</param>
    public static string PathOf(string pattern, int index) => pattern.Replace($"{Number}", $"{index}", StringComparison.Ordinal);

    /// <summary>Refuses what does not go together.</summary>
    /// <param name="profile">The profile.</param>
    /// <param name="count">How many virtual functions there can be.</param>
    /// <exception cref="VirtbusException">EINVAL: files for nobody, or none for who needs them.</exception>
    public static void Check(FunctionProfile profile, int count)
    {
        if (profile.IsSet(Files) && count == 0)
            throw new VirtbusException(Errno.EINVAL, $"Function '{profile.Name}': there are no virtual functions that have disks. Take '{Files.Name}' away, or set vfs.") { Field = Files.Name };
        if (profile.IsSet(Files) && !Medium.IsFile(profile))
            throw new VirtbusException(Errno.EINVAL, $"Function '{profile.Name}': the disks of virtual functions are where that of the physical one is, and it is in no file. Take '{Files.Name}' away, or set file.") { Field = Files.Name };
        if (count > 0 && Medium.IsFile(profile) && !profile.IsSet(Files))
            throw new VirtbusException(Errno.EINVAL, $"Function '{profile.Name}' is a disk in a file, and each of its virtual functions needs one too. Set {Files.Name}, a path with one % for the number.");
    }

    /// <summary>Opens them; they are the caller's, and stay open whether their functions are enabled or not.</summary>
    /// <exception cref="VirtbusException">One can't be opened; none is then.</exception>
    public static IReadOnlyList<IBlockBackend> Open(FunctionProfile profile, int count, ILogger logger)
    {
        List<IBlockBackend> media = [];
        try
        {
            for (var i = 0; i < count; i++)
                media.Add(Medium.Open(profile, ManifestFunction.NameOf(profile.Name, i), profile.TryGet(Files, out var pattern) ? PathOf(pattern, i) : "", logger));
            return media;
        }
        catch (Exception e)
        {
            media.ForEach(static m => m.Dispose());
            if (e is VirtbusException error)
                throw error.At(Files.Name);
            throw;
        }
    }
}
