using Virtbus.Platform;

namespace Virtbus.Vm;

/// <summary>
/// The folder for what is expensive to make: guest kernels, initramfs images, a private QEMU. An entry is a folder that is built under
/// another name and renamed when whole, under a lock, so runs at the same time share one build and an interrupted build leaves no entry.
/// </summary>
internal sealed class CacheFolder(string root, IProgress<string>? progress)
{
    private static readonly TimeSpan LockRetry = TimeSpan.FromMilliseconds(100);

    /// <summary>The folder.</summary>
    public string Root { get; } = Path.GetFullPath(root);

    /// <summary>The folder that the environment names: VIRTBUS_CACHE, else XDG_CACHE_HOME/virtbus, else ~/.cache/virtbus.</summary>
    public static CacheFolder FromEnvironment(IProgress<string>? progress) => new(Locate(Environment.GetEnvironmentVariable), progress);

    /// <summary>Where the cache is, by the variables given.</summary>
    public static string Locate(Func<string, string?> variable)
    {
        if (variable("VIRTBUS_CACHE") is { Length: > 0 } own)
            return own;
        if (variable("XDG_CACHE_HOME") is { Length: > 0 } xdg)
            return Path.Combine(xdg, "virtbus");
        string home = variable("HOME") is { Length: > 0 } set
            ? set
            : throw new VirtbusException(Errno.ENOENT, "There is no cache folder, since HOME is not set. Set VIRTBUS_CACHE to a folder.");
        return Path.Combine(home, ".cache", "virtbus");
    }

    /// <summary>The path that an entry has once it is built.</summary>
    public string PathOf(string name) => Path.Combine(Root, name);

    /// <summary>The entry's path; builds it first if it is not there.</summary>
    /// <param name="name">The entry's name under the root.</param>
    /// <param name="build">Fills the folder whose path it is given.</param>
    /// <param name="cancellation">Ends the wait and the build.</param>
    public async Task<string> GetOrBuildAsync(string name, Func<string, Task> build, CancellationToken cancellation)
    {
        string target = PathOf(name);
        if (Directory.Exists(target))
            return target;
        string partial = target + ".partial";
        try
        {
            Directory.CreateDirectory(Path.GetDirectoryName(target)!);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new VirtbusException(Errno.EACCES, $"The cache folder '{Root}' cannot be made: {e.Message} Set VIRTBUS_CACHE to a writable one.", e);
        }

        await using FileStream held = await LockAsync(target + ".lock", cancellation);
        if (Directory.Exists(target))
            return target;
        // We hold the lock, so a partial folder belongs to a run that died.
        Remove(partial);
        Directory.CreateDirectory(partial);
        try
        {
            await build(partial);
            Directory.Move(partial, target);
        }
        catch
        {
            Remove(partial);
            throw;
        }

        return target;
    }

    private static void Remove(string folder)
    {
        if (Directory.Exists(folder))
            Directory.Delete(folder, recursive: true);
    }

    private async Task<FileStream> LockAsync(string path, CancellationToken cancellation)
    {
        bool told = false;
        while (true)
        {
            try
            {
                // FileShare.None is flock(LOCK_EX | LOCK_NB); the kernel drops it with the process, so a killed run blocks nobody.
                return new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            }
            catch (IOException) when (File.Exists(path))
            {
                if (!told)
                    progress?.Report($"Waiting for another run that is making '{Path.GetFileNameWithoutExtension(path)}'");
                told = true;
                await Task.Delay(LockRetry, cancellation);
            }
            catch (UnauthorizedAccessException e)
            {
                throw new VirtbusException(Errno.EACCES, $"The cache folder '{Root}' is not writable: {e.Message} Set VIRTBUS_CACHE to another.", e);
            }
        }
    }
}
