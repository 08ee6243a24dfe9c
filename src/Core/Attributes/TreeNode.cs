using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>An entry of the tree, made when someone looks. Names and layout are those of Linux's sysfs.</summary>
public abstract class TreeNode
{
    private protected TreeNode(string name) => Name = name;

    /// <summary>The entry's name in its directory.</summary>
    public string Name { get; }
}

/// <summary>A directory of the tree.</summary>
public sealed class TreeDirectory : TreeNode
{
    private readonly Func<IEnumerable<TreeNode>> _list;
    private readonly Func<string, TreeNode?>? _find;

    internal TreeDirectory(string name, Func<IEnumerable<TreeNode>> list, Func<string, TreeNode?>? find = null)
        : base(name)
    {
        _list = list;
        _find = find;
    }

    /// <summary>The entries at this moment, in order of appearance.</summary>
    public IEnumerable<TreeNode> List() => _list();

    /// <summary>Finds an entry.</summary>
    /// <param name="name">The entry's name.</param>
    public TreeNode? Find(string name) => _find?.Invoke(name) ?? _list().FirstOrDefault(n => n.Name == name);
}

/// <summary>A link of the tree.</summary>
public sealed class TreeLink : TreeNode
{
    internal TreeLink(string name, string target)
        : base(name) => Target = target;

    /// <summary>Where the link points: a path below the tree's root, beginning with '/'.</summary>
    public string Target { get; }
}

/// <summary>A file of the tree: an attribute of an object.</summary>
public sealed class TreeFile : TreeNode
{
    private readonly object _owner;
    private readonly ObjectAttribute _attribute;
    private readonly string _path;

    internal TreeFile(string path, object owner, ObjectAttribute attribute)
        : base(attribute.Name)
    {
        _path = path;
        _owner = owner;
        _attribute = attribute;
    }

    /// <summary>The file mode as Linux shows it.</summary>
    public int Mode => _attribute.Mode;

    /// <summary>Reads the attribute.</summary>
    /// <returns>The value with a closing newline, or nothing.</returns>
    /// <exception cref="VirtbusException">EACCES: the attribute is write-only; or what the object answers.</exception>
    public string Read()
    {
        if (!_attribute.CanRead)
            throw new VirtbusException(Errno.EACCES, $"{_path} is write-only. Write to it with 'attr set'.");
        var value = _attribute.Show(_owner);
        return value.Length == 0 || value.EndsWith('\n') ? value : value + "\n";
    }

    /// <summary>Writes the attribute. Returns when what was asked for is done.</summary>
    /// <param name="value">The value; surrounding white space is dropped.</param>
    /// <param name="cancellationToken">Ends the wait.</param>
    /// <exception cref="VirtbusException">EACCES: the attribute is read-only; EINVAL: the value is too long; or what the object answers.</exception>
    public ValueTask WriteAsync(string value, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(value);
        if (!_attribute.CanWrite)
            throw new VirtbusException(Errno.EACCES, $"{_path} is read-only; '{value.Trim()}' was not written.");
        if (value.Length > ObjectAttribute.MaxStoreBytes)
            throw new VirtbusException(Errno.EINVAL, $"{_path}: the value has {value.Length} characters. A write takes at most {ObjectAttribute.MaxStoreBytes}.");
        return _attribute.StoreAsync(_owner, value.Trim(), cancellationToken);
    }
}
