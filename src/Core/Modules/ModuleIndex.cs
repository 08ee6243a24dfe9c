namespace Virtbus.Core;

/// <summary>Which module serves which alias: an immutable index of a modules folder, as depmod makes. Making it runs no module's code.</summary>
public sealed class ModuleIndex
{
    private readonly Dictionary<string, ModuleInfo> _byName = [];
    private readonly Dictionary<string, List<ModuleInfo>> _literal = [];
    private readonly List<(string Pattern, ModuleInfo Module)> _patterns = [];
    private readonly List<SkippedModule> _skipped = [];

    /// <summary>The modules by name.</summary>
    public IReadOnlyCollection<ModuleInfo> Modules => _byName.Values;

    /// <summary>The files that are no usable modules, with the reason.</summary>
    public IReadOnlyList<SkippedModule> Skipped => _skipped;

    /// <summary>Reads a folder.</summary>
    /// <param name="folder">The folder; one that does not exist has no modules.</param>
    /// <param name="known">An earlier index: files that did not change since are not read again.</param>
    public static ModuleIndex Read(string folder, ModuleIndex? known = null)
    {
        var index = new ModuleIndex();
        if (!Directory.Exists(folder))
            return index;
        foreach (var path in Directory.EnumerateFiles(folder, "*.dll").Order(StringComparer.Ordinal))
        {
            var file = ModuleMetadata.Resolve(path);
            var stamp = (file.LastWriteTimeUtc, file.Exists ? file.Length : 0);
            var info = known is not null && known._stamps.TryGetValue(path, out var old) && old == stamp
                ? known._byName.GetValueOrDefault(Path.GetFileNameWithoutExtension(path))
                : null;
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
    /// <param name="name">The module's name; '-' and '_' are the same, as for modprobe.</param>
    public ModuleInfo? Find(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        return _byName.GetValueOrDefault(name) ?? _byName.GetValueOrDefault(name.Replace('-', '_'));
    }

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
