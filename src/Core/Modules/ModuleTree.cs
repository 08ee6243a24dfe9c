using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>
/// Modules in the tree: <c>/module</c> has a directory for each that is loaded, as Linux's; in <c>/kernel/modules</c> stand those that could be,
/// and the files by which modules are loaded and unloaded, which are system calls there.
/// </summary>
internal sealed class ModuleTree : IDisposable
{
    private const string Folder = "/kernel/modules";

    private static readonly ObjectAttribute<LoadedModule>[] ModuleFiles =
    [
        new("alias", m => string.Join('\n', m.Info.Aliases)),
        new("coresize", m => $"{(File.Exists(m.Info.Path) ? new FileInfo(m.Info.Path).Length : 0)}"),
        new("description", m => m.Info.Description),
        new("filename", m => m.Info.Path),
        new("initstate", _ => "live"),
        new("refcnt", m => $"{m.BoundDevices + m.Holders.Count}"),
    ];

    private static readonly ObjectAttribute<ModuleLoader>[] LoaderFiles =
    [
        new("available", l => string.Join('\n', Available(l))),
        new("load", null, async (l, value, _) => await l.LoadAsync(value), isString: true),
        new("unload", null, UnloadAsync, isString: true),
    ];

    private readonly Fabric _fabric;
    private readonly ModuleLoader _loader;
    private readonly TreeDirectory _top;
    private readonly TreeDirectory _kernel;

    internal ModuleTree(Fabric fabric, ModuleLoader loader)
    {
        (_fabric, _loader) = (fabric, loader);
        _top = new TreeDirectory("module", List);
        _kernel = new TreeDirectory("modules", () => LoaderFiles.Select(a => new TreeFile($"{Folder}/{a.Name}", loader, a)));
        fabric.Tree.AddTop(_top);
        fabric.Tree.AddKernelDirectory(_kernel);
    }

    public void Dispose()
    {
        _fabric.Tree.RemoveTop(_top);
        _fabric.Tree.RemoveKernelDirectory(_kernel);
    }

    private IEnumerable<TreeNode> List()
    {
        foreach (var module in _loader.Loaded)
        {
            var path = "/module/" + module.Info.Name;
            yield return new TreeDirectory(module.Info.Name, () =>
            [
                .. ModuleFiles.Select(a => new TreeFile($"{path}/{a.Name}", module, a)),
                new TreeDirectory("holders", () => module.Holders.Select(h => new TreeLink(h, "/module/" + h))),
                new TreeDirectory("drivers", () => _fabric.Buses.SelectMany(b => b.Drivers).Where(d => d.Module == module.Info.Name)
                    .Select(d => new TreeLink($"{d.Bus.Name}:{d.Name}", Fabric.DriverPath(d)))),
            ]);
        }
    }

    private static IEnumerable<string> Available(ModuleLoader loader)
    {
        var loaded = loader.Loaded.Select(static l => l.Info.Name).ToHashSet();
        return loader.Index.Modules.Select(static m => m.Name).Where(n => !loaded.Contains(n)).Order(StringComparer.Ordinal);
    }

    // "NAME", or "NAME force" for one whose drivers are bound.
    private static async ValueTask UnloadAsync(ModuleLoader loader, string value, CancellationToken cancellationToken)
    {
        var words = value.Split(' ');
        if (words is not ([{ Length: > 0 }] or [{ Length: > 0 }, "force"]))
            throw new VirtbusException(Errno.EINVAL, $"{Folder}/unload: '{value}' is not the name of a module. Write NAME, or NAME force to unbind what its drivers are bound to.");
        await loader.UnloadAsync(words[0], force: words.Length == 2);
    }
}
