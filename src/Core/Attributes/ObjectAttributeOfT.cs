namespace Virtbus.Core;

/// <summary>An attribute of objects of one type.</summary>
/// <typeparam name="T">The object's type.</typeparam>
public sealed class ObjectAttribute<T> : ObjectAttribute
    where T : class
{
    private readonly Func<T, string>? _show;
    private readonly Func<T, string, CancellationToken, ValueTask>? _store;
    private readonly Func<T, bool>? _visible;

    /// <summary>Makes a descriptor; keep it in a static field.</summary>
    /// <param name="name">The file name.</param>
    /// <param name="show">Gives the value without a closing newline (reading adds one to a value that is not empty); null when write-only.</param>
    /// <param name="store">
    /// Takes one line without its newline, which may be empty; refuses with a <see cref="Platform.VirtbusException"/>; null when read-only.
    /// </param>
    /// <param name="visible">Tells whether an object has the attribute at all; null when every one has.</param>
    /// <param name="isString">
    /// True for a string that is kept or taken apart as it is (a name, a label, an id): the first line of what is written counts. Else, as for
    /// numbers and words, a second line is refused.
    /// </param>
    public ObjectAttribute(
        string name,
        Func<T, string>? show = null,
        Func<T, string, CancellationToken, ValueTask>? store = null,
        Func<T, bool>? visible = null,
        bool isString = false)
        : base(name)
    {
        IsString = isString;
        _show = show;
        _store = store;
        _visible = visible;
    }

    /// <inheritdoc/>
    public override bool CanRead => _show is not null || _store is null;

    /// <inheritdoc/>
    public override bool CanWrite => _store is not null;

    internal override bool IsString { get; }

    internal override bool IsVisible(object owner) => _visible is null || _visible((T)owner);

    internal override string Show(object owner) => _show is null ? "" : _show((T)owner);

    internal override ValueTask StoreAsync(object owner, string value, CancellationToken cancellationToken) =>
        _store is null ? default : _store((T)owner, value, cancellationToken);
}
