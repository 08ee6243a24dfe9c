using System.Text;
using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>An entry of the tree, made when someone looks. Names and layout are those of Linux's sysfs.</summary>
public abstract class TreeNode
{
    private protected TreeNode(string name) => Name = name;

    /// <summary>The entry's name in its directory.</summary>
    public string Name { get; }

    /// <summary>Whether the object behind the entry has left the tree; what was found before answers ENODEV from then on.</summary>
    public bool IsGone => Owner is Device { IsOut: true };

    /// <summary>The object that the entry is of; null for a directory that only holds others, and for a link.</summary>
    public virtual object? Owner => null;

    /// <summary>Whether this is what another look of the same name found: the same object's, and not one that took its place.</summary>
    /// <param name="other">What the other look found.</param>
    public abstract bool IsSameAs(TreeNode other);
}

/// <summary>A directory of the tree.</summary>
public sealed class TreeDirectory : TreeNode
{
    private readonly Func<IEnumerable<TreeNode>> _list;
    private readonly Func<string, TreeNode?>? _find;

    /// <summary>Makes a directory.</summary>
    /// <param name="name">Its name in the directory above.</param>
    /// <param name="list">Its entries at the moment of the call.</param>
    /// <param name="find">Finds one entry without listing all; null to look through the list.</param>
    /// <param name="owner">The object that the directory is of; null when it only holds others.</param>
    public TreeDirectory(string name, Func<IEnumerable<TreeNode>> list, Func<string, TreeNode?>? find = null, object? owner = null)
        : base(name)
    {
        _list = list;
        _find = find;
        Owner = owner;
    }

    /// <inheritdoc/>
    public override object? Owner { get; }

    /// <summary>The entries at this moment, in order of appearance.</summary>
    public IEnumerable<TreeNode> List() => _list();

    /// <summary>Finds an entry.</summary>
    /// <param name="name">The entry's name.</param>
    public TreeNode? Find(string name) => _find?.Invoke(name) ?? _list().FirstOrDefault(n => n.Name == name);

    /// <inheritdoc/>
    public override bool IsSameAs(TreeNode other) => other is TreeDirectory directory && directory.Owner == Owner;
}

/// <summary>A link of the tree.</summary>
public sealed class TreeLink : TreeNode
{
    /// <summary>Makes a link.</summary>
    /// <param name="name">Its name in its directory.</param>
    /// <param name="target">Where it points: a path below the tree's root, beginning with '/'.</param>
    public TreeLink(string name, string target)
        : base(name) => Target = target;

    /// <summary>Where the link points: a path below the tree's root, beginning with '/'.</summary>
    public string Target { get; }

    /// <inheritdoc/>
    public override bool IsSameAs(TreeNode other) => other is TreeLink link && link.Target == Target;

    /// <summary>The link's text as Linux has it: the target as seen from the link's directory.</summary>
    /// <param name="directory">The path of that directory itself, not one that leads there by a link: from the root, beginning with '/'.</param>
    public string TextFrom(string directory)
    {
        ArgumentNullException.ThrowIfNull(directory);
        var from = directory.Split('/', StringSplitOptions.RemoveEmptyEntries);
        var to = Target.Split('/', StringSplitOptions.RemoveEmptyEntries);
        // Up to what both are in, of which the target is none: one that is above the link is named.
        var common = Math.Min(from.AsSpan().CommonPrefixLength(to), to.Length - 1);
        return string.Join('/', [.. Enumerable.Repeat("..", from.Length - common), .. to[common..]]);
    }
}

/// <summary>A file of the tree: an attribute of an object.</summary>
public sealed class TreeFile : TreeNode
{
    private readonly object _owner;
    private readonly ObjectAttribute _attribute;
    private readonly string _path;

    /// <summary>Makes a file.</summary>
    /// <param name="path">Its path below the tree's root, for messages.</param>
    /// <param name="owner">The object whose attribute it is.</param>
    /// <param name="attribute">The attribute.</param>
    public TreeFile(string path, object owner, ObjectAttribute attribute)
        : base(attribute.Name)
    {
        _path = path;
        _owner = owner;
        _attribute = attribute;
    }

    /// <summary>The file mode as Linux shows it.</summary>
    public int Mode => _attribute.Mode;

    /// <summary>Bytes of a binary file that everybody may read; of more, who owns the fabric alone.</summary>
    public long PublicSize => _attribute.PublicSize;

    /// <inheritdoc/>
    public override object Owner => _owner;

    /// <inheritdoc/>
    public override bool IsSameAs(TreeNode other) => other is TreeFile file && file._owner == _owner;

    /// <summary>True when the file holds bytes: <see cref="ReadBytes"/> gives them, <see cref="Read"/> a text about them.</summary>
    public bool IsBinary => _attribute.IsBinary;

    /// <summary>Bytes of a binary file; 0 for others, whose length is known when they are read.</summary>
    public long Size => _attribute.GetSize(_owner);

    /// <summary>Reads bytes of a binary file.</summary>
    /// <param name="offset">First byte; at and behind the end nothing is read.</param>
    /// <param name="destination">Where to.</param>
    /// <returns>How many bytes were read; fewer than asked for at the end of the file.</returns>
    /// <exception cref="VirtbusException">EINVAL: the file is text; ENODEV: the object is gone; or what the object answers.</exception>
    public int ReadBytes(long offset, Span<byte> destination)
    {
        ThrowIfText();
        ThrowIfGone();
        ArgumentOutOfRangeException.ThrowIfNegative(offset);
        var there = (int)Math.Clamp(Size - offset, 0, destination.Length);
        if (there > 0)
            _attribute.ReadBytes(_owner, offset, destination[..there]);
        return there;
    }

    /// <summary>Writes bytes of a binary file.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="source">Where from.</param>
    /// <returns>How many bytes were written; fewer than asked for at the end of the file.</returns>
    /// <exception cref="VirtbusException">EINVAL: the file is text; EACCES: it is read-only; ENODEV: the object is gone; or what the object answers.</exception>
    public int WriteBytes(long offset, ReadOnlySpan<byte> source)
    {
        ThrowIfText();
        ArgumentOutOfRangeException.ThrowIfNegative(offset);
        if (!_attribute.CanWrite)
            throw new VirtbusException(Errno.EACCES, $"{_path} is read-only; {source.Length} bytes were not written.");
        ThrowIfGone();
        var there = (int)Math.Clamp(Size - offset, 0, source.Length);
        if (there > 0)
            _attribute.WriteBytes(_owner, offset, source[..there]);
        return there;
    }

    private void ThrowIfText()
    {
        if (!IsBinary)
            throw new VirtbusException(Errno.EINVAL, $"{_path} is text. Read it as text.");
    }

    /// <summary>Reads the attribute.</summary>
    /// <returns>The value with a closing newline, or nothing.</returns>
    /// <exception cref="VirtbusException">EACCES: the attribute is write-only; ENODEV: the object is gone; or what the object answers.</exception>
    public string Read()
    {
        if (!_attribute.CanRead)
            throw new VirtbusException(Errno.EACCES, $"{_path} is write-only. Write to it with 'attr set'.");
        ThrowIfGone();
        string value;
        try
        {
            value = _attribute.Show(_owner);
        }
        catch (ObjectDisposedException e)
        {
            // Found while it was there, read when it was not.
            throw new VirtbusException(Errno.ENODEV, $"{_path}: {e.Message}", e);
        }
        return value.Length == 0 || value.EndsWith('\n') ? value : value + "\n";
    }

    /// <summary>Writes the attribute. Returns when what was asked for is done.</summary>
    /// <param name="value">
    /// The value: of text, what stands before the first NUL, without a newline at its end; of a string attribute the first line. A text for a
    /// file of bytes is handed over as it is.
    /// </param>
    /// <param name="cancellationToken">Ends the wait.</param>
    /// <exception cref="VirtbusException">
    /// EACCES: the attribute is read-only; EINVAL: the value is too long or has a second line; ENODEV: the object is gone; or what the object answers.
    /// </exception>
    public ValueTask WriteAsync(string value, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(value);
        if (!_attribute.CanWrite)
            throw new VirtbusException(Errno.EACCES, $"{_path} is read-only; '{value.Trim()}' was not written.");
        if (Encoding.UTF8.GetByteCount(value) is > ObjectAttribute.MaxStoreBytes and var bytes)
            throw new VirtbusException(Errno.EINVAL, $"{_path}: the value has {bytes} bytes. A write takes at most {ObjectAttribute.MaxStoreBytes}.");
        ThrowIfGone();
        return StoreAsync(IsBinary ? value : AttributeValue.Take(_path, value, _attribute.IsString), cancellationToken);
    }

    private void ThrowIfGone()
    {
        if (IsGone)
            throw new VirtbusException(Errno.ENODEV, $"{_path}: the device is gone.");
    }

    private async ValueTask StoreAsync(string value, CancellationToken cancellationToken)
    {
        try
        {
            await _attribute.StoreAsync(_owner, value, cancellationToken);
        }
        catch (ObjectDisposedException e)
        {
            // Found while it was there, written when it was not.
            throw new VirtbusException(Errno.ENODEV, $"{_path}: {e.Message}", e);
        }
    }
}
