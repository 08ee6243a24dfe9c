using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>Which module serves which alias: an immutable index of modules folders, as depmod makes. Making it runs no module's code.</summary>
public sealed class ModuleIndex
{
    private readonly Dictionary<string, ModuleInfo> _byName = [];
    private readonly Dictionary<string, List<ModuleInfo>> _literal = [];
    private readonly List<(string Pattern, ModuleInfo Module)> _patterns = [];
    private readonly List<SkippedModule> _skipped = [];

    /// <summary>The modules by name.</summary>
    public IReadOnlyCollection<ModuleInfo> Modules => _byName.Values;

    /// <summary>Names that a driver of a bus may have: those that are there, and those that modules would bring by custom; for suggestions.</summary>
    /// <param name="bus">The bus.</param>
    public IEnumerable<string> DriverNames(Bus bus)
    {
        ArgumentNullException.ThrowIfNull(bus);
        return bus.Drivers.Select(static d => d.Name).Concat(Modules.Select(static m => ModuleName.DriverOf(m.Name)));
    }

    /// <summary>The files that are no usable modules, and the folders that can't be used, with the reason.</summary>
    public IReadOnlyList<SkippedModule> Skipped => _skipped;

    /// <summary>Reads a folder.</summary>
    /// <param name="folder">The folder; one that does not exist has no modules.</param>
    /// <param name="known">An earlier index: files that did not change since are not read again.</param>
    public static ModuleIndex Read(string folder, ModuleIndex? known = null) => Read([folder], known);

    /// <summary>Reads several folders. Of modules with one name, that of the first folder counts; the others are skipped.</summary>
    /// <param name="folders">The folders; one that does not exist has no modules.</param>
    /// <param name="known">An earlier index: files that did not change since are not read again.</param>
    public static ModuleIndex Read(IReadOnlyList<string> folders, ModuleIndex? known = null)
    {
        ArgumentNullException.ThrowIfNull(folders);
        var index = new ModuleIndex();
        foreach (var path in folders.SelectMany(index.ListOrSkip))
        {
            var name = Path.GetFileNameWithoutExtension(path);
            if (index._byName.TryGetValue(name, out var first))
            {
                index._skipped.Add(new SkippedModule(path, $"{first.Path} is a module of the same name and comes first"));
                continue;
            }
            if (!TrustedPath.TryCheckFile(path, out var distrust))
            {
                index._skipped.Add(new SkippedModule(path, distrust));
                continue;
            }
            var file = ModuleMetadata.Resolve(path);
            var stamp = (file.LastWriteTimeUtc, file.Exists ? file.Length : 0);
            var info = known is not null && known._stamps.TryGetValue(path, out var old) && old == stamp ? known._byName.GetValueOrDefault(name) : null;
            var reason = "";
            info ??= ModuleMetadata.TryRead(path, out reason);
            if (info is null)
            {
                index._skipped.Add(new SkippedModule(path, reason));
                continue;
            }
            index._stamps[path] = stamp;
            index.Add(info);
        }
        return index;
    }

    /// <summary>Finds a module by name.</summary>
    /// <param name="name">The module's name; see <see cref="ModuleName"/>.</param>
    public ModuleInfo? Find(string name) => ModuleName.Find(_byName, name);

    /// <summary>The modules that serve a device's alias.</summary>
    /// <param name="modalias">The device's alias, without wildcards.</param>
    public IEnumerable<ModuleInfo> FindByAlias(string modalias)
    {
        IEnumerable<ModuleInfo> found = _literal.TryGetValue(modalias, out var exact) ? exact : [];
        return _patterns.Count == 0
            ? found
            : found.Concat(_patterns.Where(p => AliasPattern.IsMatch(p.Pattern, modalias)).Select(p => p.Module)).Distinct();
    }

    private readonly Dictionary<string, (DateTime Written, long Length)> _stamps = [];

    private string[] ListOrSkip(string folder)
    {
        if (!Directory.Exists(folder))
            return [];
        var reason = "";
        try
        {
            if (TrustedPath.TryCheck(folder, out reason))
                return [.. Directory.EnumerateFiles(folder, "*.dll").Order(StringComparer.Ordinal)];
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // It may have gone since; the modules of the other folders are there all the same.
            reason = $"it can't be listed ({e.Message.TrimEnd('.')})";
        }
        _skipped.Add(new SkippedModule(folder, reason));
        return [];
    }

    private void Add(ModuleInfo info)
    {
        _byName.Add(info.Name, info);
        foreach (var alias in info.Aliases)
        {
            if (!AliasPattern.IsLiteral(alias))
                _patterns.Add((alias, info));
            else if (_literal.TryGetValue(alias, out var there))
                there.Add(info);
            else
                _literal.Add(alias, [info]);
        }
    }
}
