namespace Virtbus.Core;

/// <summary>
/// A named value of an object: read, write or both. The descriptor is static; it costs an object nothing until someone looks.
/// Make one with <see cref="ObjectAttribute{T}"/>.
/// </summary>
public abstract class ObjectAttribute
{
    /// <summary>The most bytes that one write may have, as a page of sysfs.</summary>
    public const int MaxStoreBytes = 4096;

    private protected ObjectAttribute(string name) => Name = name;

    /// <summary>The file name.</summary>
    public string Name { get; }

    /// <summary>True when the attribute can be read.</summary>
    public abstract bool CanRead { get; }

    /// <summary>True when the attribute can be written.</summary>
    public abstract bool CanWrite { get; }

    /// <summary>The file mode as Linux shows it: 0444, 0200 or 0644 (octal).</summary>
    public int Mode => (CanRead, CanWrite) switch
    {
        (true, true) => 0x1A4,
        (true, false) => 0x124,
        _ => 0x80,
    };

    /// <summary>True when the value is bytes, not text.</summary>
    public virtual bool IsBinary => false;

    /// <summary>True when a write takes a string of the writer's own, of which the first line counts.</summary>
    internal virtual bool IsString => false;

    internal virtual long PublicSize => long.MaxValue;

    internal virtual long GetSize(object owner) => 0;

    internal virtual void ReadBytes(object owner, long offset, Span<byte> destination) => throw new NotSupportedException($"{Name} is text.");

    internal virtual void WriteBytes(object owner, long offset, ReadOnlySpan<byte> source) => throw new NotSupportedException($"{Name} is text.");

    internal abstract bool IsVisible(object owner);

    internal abstract string Show(object owner);

    internal abstract ValueTask StoreAsync(object owner, string value, CancellationToken cancellationToken);
}
