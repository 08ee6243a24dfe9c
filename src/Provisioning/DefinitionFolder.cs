using System.Text.Json;
using Virtbus.Platform;

namespace Virtbus.Provisioning;

/// <summary>
/// Keeps definitions in a folder, a file NAME.json each. A new one is written beside the old one, made durable, and put in its place by one step:
/// whatever ends the program or the host, the old or the new one is there.
/// </summary>
public sealed class DefinitionFolder : IDefinitionStore
{
    private const string Suffix = ".json";
    private const string Unfinished = ".json.new";
    private const int MaxBytes = 1 << 20;
    private readonly string _folder;

    /// <summary>Names a folder; it is made with the first definition.</summary>
    /// <param name="folder">The folder, which nobody else writes to.</param>
    public DefinitionFolder(string folder)
    {
        ArgumentNullException.ThrowIfNull(folder);
        _folder = folder;
    }

    /// <inheritdoc/>
    public IReadOnlyList<StoredDefinition> Load()
    {
        var all = new List<StoredDefinition>();
        if (File.Exists(_folder))
            throw new VirtbusException(Errno.ENOTDIR, $"State folder {_folder} is a file. Remove it, or put it elsewhere.");
        if (!Directory.Exists(_folder))
            return all;
        try
        {
            foreach (var path in Directory.EnumerateFiles(_folder))
            {
                // Of a write that was not finished. Nobody reads it, so it may stay where nothing can be removed.
                if (path.EndsWith(Unfinished, StringComparison.Ordinal))
                    TryDelete(path);
                else if (path.EndsWith(Suffix, StringComparison.Ordinal))
                    all.Add(Read(path));
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new VirtbusException(
                e is IOException ? Errno.EIO : Errno.EACCES, $"State folder {_folder} can't be read: {e.Message.TrimEnd('.')}. See to who may read it, or put it elsewhere.", e);
        }

        return [.. all.OrderBy(static d => d.Order).ThenBy(static d => d.Name, StringComparer.Ordinal)];
    }

    /// <inheritdoc/>
    public void Save(StoredDefinition definition)
    {
        ArgumentNullException.ThrowIfNull(definition);
        var path = PathOf(definition.Name);
        Change(definition.Name, path, () =>
        {
            Directory.CreateDirectory(_folder, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
            using (var file = File.Create(PathOf(definition.Name, Unfinished)))
            {
                JsonSerializer.Serialize(file, definition, StoredJson.Default.StoredDefinition);
                file.Flush(flushToDisk: true);
            }

            File.Move(PathOf(definition.Name, Unfinished), path, overwrite: true);
        });
    }

    /// <inheritdoc/>
    public void Remove(string name)
    {
        var path = PathOf(name);
        Change(name, path, () => File.Delete(path));
    }

    private void Change(string name, string path, Action change)
    {
        try
        {
            change();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // A full disk needs what is left of it.
            TryDelete(PathOf(name, Unfinished));
            throw Refused(e is IOException ? Errno.EIO : Errno.EACCES, e.Message, e);
        }

        // The name is durable too before it counts.
        if (FileDescriptor.SyncFolder(_folder) is not Errno.None and var error)
            throw Refused(error, error.ToString(), null);

        VirtbusException Refused(Errno errno, string why, Exception? inner) => new(
            errno, $"What is kept of function '{name}' in {path} can't be changed: {why.TrimEnd('.')}. Make room there, or see to who may write to it.", inner);
    }

    private static StoredDefinition Read(string path)
    {
        try
        {
            // A pipe would make who opens it wait for a writer.
            if (!FilePermissions.TryGet(path, follow: false, out var found, out _) || found.Kind != FileKind.Regular)
                throw new JsonException("it is no regular file.");
            if (new FileInfo(path).Length > MaxBytes)
                throw new JsonException($"it has more than {MaxBytes} bytes.");
            return JsonSerializer.Deserialize(File.ReadAllBytes(path), StoredJson.Default.StoredDefinition) is { Name: not null, Kind: not null, Values: not null } kept
                && Path.GetFileNameWithoutExtension(path) == kept.Name
                && ProvisioningEngine.IsName(kept.Name)
                && kept.Values.Values.All(static v => v is not null)
                ? kept
                : throw new JsonException("it does not say name, kind and values as the file's name does.");
        }
        catch (Exception e) when (e is JsonException or IOException or UnauthorizedAccessException)
        {
            throw new VirtbusException(Errno.EINVAL, $"{path} is no definition of a function: {e.Message} Mend it, or remove it.", e);
        }
    }

    private static void TryDelete(string path)
    {
        try
        {
            File.Delete(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // It is no definition.
        }
    }

    private string PathOf(string name, string suffix = Suffix) => Path.Combine(_folder, name + suffix);
}
