using Virtbus.Platform;

namespace Virtbus.Provisioning;

/// <summary>
/// What a function is to be, said whole before it exists: its kind, its name and typed values of the attributes that its provider declares. It does not
/// change; a change makes another one.
/// </summary>
public sealed class FunctionProfile
{
    private readonly Dictionary<string, object> _values;
    private readonly IReadOnlyList<ProfileField> _fields;

    private FunctionProfile(string kind, string name, IReadOnlyList<ProfileField> fields, Dictionary<string, object> values, string? place)
    {
        Kind = kind;
        Name = name;
        _fields = fields;
        _values = values;
        Place = place;
    }

    /// <summary>The kind of function, as its provider calls it.</summary>
    public string Kind { get; }

    /// <summary>The name by which people know the function.</summary>
    public string Name { get; }

    /// <summary>Where it was before, as its provider said it (<see cref="FunctionProvider.PlaceOf"/>), and should be again; null for anywhere.</summary>
    public string? Place { get; }

    /// <summary>The values that were set, by name, as text; in the order of the provider's attributes.</summary>
    public IReadOnlyList<KeyValuePair<string, string>> Values =>
        [.. _fields.Where(f => _values.ContainsKey(f.Name)).Select(f => KeyValuePair.Create(f.Name, f.Format(_values[f.Name])))];

    /// <summary>Makes a profile.</summary>
    /// <param name="kind">The kind.</param>
    /// <param name="name">The name.</param>
    /// <param name="fields">The attributes that it may have.</param>
    /// <param name="values">Values by name; those that are left out are not set.</param>
    /// <exception cref="VirtbusException">EOPNOTSUPP: an attribute that is none of them; EINVAL: a value. All that is wrong is named.</exception>
    public static FunctionProfile Parse(string kind, string name, IReadOnlyList<ProfileField> fields, IEnumerable<KeyValuePair<string, string>> values)
    {
        ArgumentNullException.ThrowIfNull(fields);
        ArgumentNullException.ThrowIfNull(values);
        return new FunctionProfile(kind, name, fields, [], null).With(values);
    }

    /// <summary>The value of an attribute, or its default.</summary>
    /// <param name="field">One of the provider's attributes.</param>
    /// <typeparam name="T">The value's type.</typeparam>
    /// <exception cref="InvalidOperationException">It is not set and has no default: what has to be set is, in a profile that is activated.</exception>
    public T Get<T>(ProfileField<T> field)
        where T : notnull =>
        TryGet(field, out var value) ? value : throw new InvalidOperationException($"Profile '{Name}' has no {field.Name}.");

    /// <summary>The value of an attribute, or its default, when it has one of them.</summary>
    /// <param name="field">One of the provider's attributes.</param>
    /// <param name="value">The value.</param>
    /// <typeparam name="T">The value's type.</typeparam>
    public bool TryGet<T>(ProfileField<T> field, [System.Diagnostics.CodeAnalysis.MaybeNullWhen(false)] out T value)
        where T : notnull
    {
        ArgumentNullException.ThrowIfNull(field);
        if (_values.TryGetValue(field.Name, out var set))
        {
            value = (T)set;
            return true;
        }

        value = field.Default;
        return field.HasDefault;
    }

    /// <summary>Whether an attribute was set.</summary>
    /// <param name="field">One of the provider's attributes.</param>
    public bool IsSet(ProfileField field)
    {
        ArgumentNullException.ThrowIfNull(field);
        return _values.ContainsKey(field.Name);
    }

    /// <summary>Whether all that has to be set is, as far as it can be told without the provider.</summary>
    internal bool IsWhole => _fields.All(f => !f.IsRequired || _values.ContainsKey(f.Name));

    internal string? Text(ProfileField field) => _values.TryGetValue(field.Name, out var value) ? field.Format(value) : null;

    internal FunctionProfile At(string? place) => new(Kind, Name, _fields, _values, place);

    /// <summary>This one with some values changed; an empty text takes a value away.</summary>
    internal FunctionProfile With(IEnumerable<KeyValuePair<string, string>> values)
    {
        var all = new Dictionary<string, object>(_values);
        VirtbusException? first = null;
        var wrong = new List<string>();
        foreach (var (key, text) in values)
        {
            try
            {
                var field = Find(key);
                if (text.Length == 0)
                    all.Remove(key);
                else
                    all[key] = field.Parse(Name, text);
            }
            catch (VirtbusException e)
            {
                first ??= e;
                wrong.Add(e.Message);
            }
        }

        // Whole, or not at all: who asks learns of all that is wrong at once.
        return first is null ? new FunctionProfile(Kind, Name, _fields, all, Place) : throw new VirtbusException(first.Errno, string.Join(' ', wrong), first);
    }

    private ProfileField Find(string key) =>
        _fields.FirstOrDefault(f => f.Name == key)
        ?? throw new VirtbusException(Errno.EOPNOTSUPP, $"Function '{Name}' can't have '{key}'.{Suggestion.For(key, _fields.Select(static f => f.Name))} A function of kind {Kind} has {string.Join(", ", _fields.Select(f => f.Name))}.");
}
