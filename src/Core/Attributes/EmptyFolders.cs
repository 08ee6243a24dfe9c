namespace Virtbus.Core;

/// <summary>Folders that are in the tree though nothing may be in them. Safe from any thread.</summary>
internal sealed class EmptyFolders
{
    private readonly Lock _lock = new();
    // By the folder above: names in it.
    private Dictionary<string, string[]> _below = [];

    /// <summary>Adds a folder, and those above it.</summary>
    /// <param name="path">Names separated by '/', from the root.</param>
    internal void Add(string path)
    {
        lock (_lock)
        {
            var below = new Dictionary<string, string[]>(_below);
            var above = "";
            foreach (var name in path.Split('/', StringSplitOptions.RemoveEmptyEntries))
            {
                var names = below.GetValueOrDefault(above) ?? [];
                if (!names.Contains(name))
                    below[above] = [.. names, name];
                above += "/" + name;
            }

            Volatile.Write(ref _below, below);
        }
    }

    /// <summary>A directory with what it has, and the folders that are to be in it.</summary>
    /// <param name="directory">The directory.</param>
    /// <param name="path">Its path from the root.</param>
    internal TreeDirectory Over(TreeDirectory directory, string path) => new(
        directory.Name,
        () =>
        {
            TreeNode[] there = [.. directory.List().Select(n => In(n, path))];
            return there.Concat(NamesIn(path).Where(name => !there.Any(n => n.Name == name)).Select(name => Empty(name, path)));
        },
        name => directory.Find(name) is { } node ? In(node, path) : NamesIn(path).Contains(name) ? Empty(name, path) : null,
        directory.Owner);

    private TreeNode In(TreeNode node, string path) => node is TreeDirectory directory && NamesIn($"{path}/{node.Name}").Length > 0 ? Over(directory, $"{path}/{node.Name}") : node;

    private TreeDirectory Empty(string name, string path) => Over(new TreeDirectory(name, static () => []), $"{path}/{name}");

    private string[] NamesIn(string path) => Volatile.Read(ref _below).GetValueOrDefault(path) ?? [];
}
