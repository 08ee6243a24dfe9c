using System.Diagnostics.CodeAnalysis;
using Virtbus.Platform;

namespace Virtbus.Provisioning;

/// <summary>An attribute whose values have a type.</summary>
/// <typeparam name="T">The type.</typeparam>
public sealed class ProfileField<T> : ProfileField
    where T : notnull
{
    private readonly Parser _parse;
    private readonly Func<T, string> _format;

    internal ProfileField(string name, string description, Parser parse, Func<T, string> format, bool isRequired, FieldChange change)
        : base(name, description, isRequired, change)
    {
        _parse = parse;
        _format = format;
    }

    internal delegate bool Parser(string text, [MaybeNullWhen(false)] out T value);

    /// <summary>Whether something stands for its absence.</summary>
    public bool HasDefault { get; internal init; }

    /// <summary>What stands for its absence, when <see cref="HasDefault"/>.</summary>
    public T? Default { get; internal init; }

    /// <inheritdoc/>
    public override string? DefaultText => HasDefault ? _format(Default!) : null;

    internal override object Parse(string function, string text) =>
        _parse(text, out var value) ? value : throw new VirtbusException(Errno.EINVAL, $"Function '{function}': {Name} '{text}' is not right. Write {Description}.");

    internal override string Format(object value) => _format((T)value);
}
