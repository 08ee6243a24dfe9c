namespace Virtbus.Provisioning;

/// <summary>
/// An attribute that a provider's profiles may have: its name, what it may be, whether it has to be said, and when it may change. The descriptor is
/// static and shared. Made by <see cref="ProfileFields"/>.
/// </summary>
public abstract class ProfileField
{
    private protected ProfileField(string name, string description, bool isRequired, FieldChange change)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        Name = name;
        Description = description;
        IsRequired = isRequired;
        Change = change;
    }

    /// <summary>The attribute's name: lower-case letters, digits and '_', as the tree and the program show it.</summary>
    public string Name { get; }

    /// <summary>What it may be, in words, with range and unit.</summary>
    public string Description { get; }

    /// <summary>Whether a profile without it stays <see cref="FunctionState.Defined"/> and can't be activated.</summary>
    public bool IsRequired { get; }

    /// <summary>When it may change.</summary>
    public FieldChange Change { get; }

    /// <summary>What stands for its absence, as text; null when nothing does.</summary>
    public abstract string? DefaultText { get; }

    /// <inheritdoc/>
    public sealed override string ToString() => Name;

    /// <summary>All that a person has to know of it, in one sentence.</summary>
    public string Describe() =>
        Description
        + (IsRequired ? "; has to be set" : "")
        + (DefaultText is { } standard ? $"; {standard} when not set" : "")
        + (Change == FieldChange.WhileActive ? "; may change while active" : "");

    /// <summary>Reads a value.</summary>
    /// <exception cref="Platform.VirtbusException">EINVAL: it is none; the message says of what, and what to write.</exception>
    internal abstract object Parse(string function, string text);

    /// <summary>The value as text that <see cref="Parse"/> reads.</summary>
    internal abstract string Format(object value);
}
