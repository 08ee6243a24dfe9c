namespace Virtbus.Core;

/// <summary>
/// An attribute whose value is bytes (Linux: bin_attribute), for example a function's config space. Who reads it as text gets what
/// <c>show</c> makes of it.
/// </summary>
/// <typeparam name="T">The object's type.</typeparam>
public sealed class BinaryAttribute<T> : ObjectAttribute
    where T : class
{
    private readonly Func<T, long> _size;
    private readonly ByteReader _read;
    private readonly ByteWriter? _write;
    private readonly Func<T, string> _show;
    private readonly Func<T, string, CancellationToken, ValueTask>? _store;
    private readonly Func<T, bool>? _visible;

    /// <summary>Makes a descriptor; keep it in a static field.</summary>
    /// <param name="name">The file name.</param>
    /// <param name="size">Bytes that an object's value has.</param>
    /// <param name="read">Reads a part that lies inside.</param>
    /// <param name="show">The value as text; may refuse with a <see cref="Platform.VirtbusException"/>.</param>
    /// <param name="write">Writes a part that lies inside; null when read-only.</param>
    /// <param name="store">Takes a text; null when read-only. Both or none of the two are given.</param>
    /// <param name="visible">Tells whether an object has the attribute at all; null when every one has.</param>
    public BinaryAttribute(
        string name,
        Func<T, long> size,
        ByteReader read,
        Func<T, string> show,
        ByteWriter? write = null,
        Func<T, string, CancellationToken, ValueTask>? store = null,
        Func<T, bool>? visible = null)
        : base(name)
    {
        _size = size;
        _read = read;
        _show = show;
        _write = write;
        _store = store;
        _visible = visible;
    }

    /// <summary>Reads a part of the value.</summary>
    /// <param name="owner">The object.</param>
    /// <param name="offset">First byte.</param>
    /// <param name="destination">Where to; at least one byte, inside of the value.</param>
    public delegate void ByteReader(T owner, long offset, Span<byte> destination);

    /// <summary>Writes a part of the value.</summary>
    /// <param name="owner">The object.</param>
    /// <param name="offset">First byte.</param>
    /// <param name="source">Where from; at least one byte, inside of the value.</param>
    public delegate void ByteWriter(T owner, long offset, ReadOnlySpan<byte> source);

    /// <inheritdoc/>
    public override bool CanRead => true;

    /// <inheritdoc/>
    public override bool CanWrite => _write is not null;

    /// <inheritdoc/>
    public override bool IsBinary => true;

    /// <summary>Bytes that everybody may read; of more, who owns the fabric alone.</summary>
    public long PublicBytes { get; init; } = long.MaxValue;

    internal override long PublicSize => PublicBytes;

    internal override long GetSize(object owner) => _size((T)owner);

    internal override void ReadBytes(object owner, long offset, Span<byte> destination) => _read((T)owner, offset, destination);

    internal override void WriteBytes(object owner, long offset, ReadOnlySpan<byte> source) => _write?.Invoke((T)owner, offset, source);

    internal override bool IsVisible(object owner) => _visible is null || _visible((T)owner);

    internal override string Show(object owner) => _show((T)owner);

    internal override ValueTask StoreAsync(object owner, string value, CancellationToken cancellationToken) =>
        _store is null ? default : _store((T)owner, value, cancellationToken);
}
