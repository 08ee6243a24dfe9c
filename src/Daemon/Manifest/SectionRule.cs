using System.Text.Json;
using Virtbus.Platform;

namespace Virtbus.Daemon.Manifest;

/// <summary>A key of a mapping.</summary>
internal abstract class Field(string name, string description, bool required)
{
    public string Name => name;

    public string Description => description;

    public bool IsRequired => required;

    public abstract Rule Rule { get; }
}

/// <summary>A key whose value has a type.</summary>
/// <typeparam name="T">The type.</typeparam>
internal sealed class Field<T>(string name, Rule<T> rule, string description, bool required = false) : Field(name, description, required)
{
    public override Rule Rule => rule;

    public Rule<T> Typed => rule;
}

/// <summary>A mapping with known keys.</summary>
/// <typeparam name="T">What it describes.</typeparam>
/// <param name="what">What it describes, in the words of an error.</param>
/// <param name="fields">The keys.</param>
/// <param name="oneOf">Keys of which exactly one is there.</param>
/// <param name="bind">Makes the object; null when something that it needs is wrong, which is then reported already.</param>
internal sealed class SectionRule<T>(string what, Field[] fields, Field[] oneOf, Func<SectionReader, T?> bind) : Rule<T>
    where T : class
{
    public override bool TryRead(ManifestNode node, string path, List<ManifestError> errors, out T value)
    {
        value = null!;
        if (node is not MappingNode mapping)
        {
            errors.Add(new ManifestError(node.At, path, $"{node.Kind} is not right here. Write {what} with the keys {Names(fields)}."));
            return false;
        }
        var known = new Dictionary<string, ManifestNode>();
        foreach (var (key, child) in mapping.Entries.TakeWhile(_ => errors.Count < ManifestError.MaxKept))
        {
            if (!fields.Any(f => f.Name == key.Text))
                errors.Add(new ManifestError(key.At, path, $"'{key.Text}' is no key of {what}.{Suggestion.For(key.Text, fields.Select(f => f.Name))} The keys are {Names(fields)}."));
            else if (!known.TryAdd(key.Text, child))
                errors.Add(new ManifestError(key.At, path, $"'{key.Text}' is here a second time. Remove one of the two."));
        }
        foreach (var field in fields)
        {
            if (field.IsRequired && !known.ContainsKey(field.Name))
                errors.Add(new ManifestError(node.At, path, $"{what} has no '{field.Name}'. Add it: {field.Description}"));
        }
        var chosen = oneOf.Where(f => known.ContainsKey(f.Name)).ToArray();
        if (oneOf.Length > 0 && chosen.Length != 1)
            errors.Add(new ManifestError(node.At, path, $"{what} has exactly one of {Names(oneOf)}; this has {(chosen.Length == 0 ? "none" : Names(chosen))}. {(chosen.Length == 0 ? "Add one." : "Keep one.")}"));
        var reader = new SectionReader(mapping.At, path, known, errors);
        value = bind(reader)!;
        return value is not null;
    }

    public override void WriteSchema(Utf8JsonWriter json)
    {
        json.WriteString("type", "object");
        json.WriteBoolean("additionalProperties", false);
        if (fields.Any(f => f.IsRequired))
        {
            json.WriteStartArray("required");
            foreach (var field in fields.Where(f => f.IsRequired))
                json.WriteStringValue(field.Name);
            json.WriteEndArray();
        }
        if (oneOf.Length > 0)
        {
            json.WriteStartArray("oneOf");
            foreach (var field in oneOf)
            {
                json.WriteStartObject();
                json.WriteStartArray("required");
                json.WriteStringValue(field.Name);
                json.WriteEndArray();
                json.WriteEndObject();
            }
            json.WriteEndArray();
        }
        json.WriteStartObject("properties");
        foreach (var field in fields)
        {
            json.WriteStartObject(field.Name);
            json.WriteString("description", field.Description);
            field.Rule.WriteSchema(json);
            json.WriteEndObject();
        }
        json.WriteEndObject();
    }

    private static string Names(IEnumerable<Field> fields) => string.Join(", ", fields.Select(f => f.Name));
}

/// <summary>Hands the values of one mapping to the code that makes its object.</summary>
internal sealed class SectionReader(ManifestPosition at, string path, Dictionary<string, ManifestNode> values, List<ManifestError> errors)
{
    /// <summary>Reads the value of a key; null when it is absent or wrong. Each key is read once, so each error comes once.</summary>
    public ManifestValue<T>? Read<T>(Field<T> field)
    {
        var inside = path.Length == 0 ? field.Name : $"{path}.{field.Name}";
        return values.TryGetValue(field.Name, out var node) && field.Typed.TryRead(node, inside, errors, out var value)
            ? new ManifestValue<T>(value, node.At, inside)
            : null;
    }

    /// <summary>Whether a key is there, right or wrong.</summary>
    public bool Has(Field field) => values.ContainsKey(field.Name);

    /// <summary>Says what is wrong with a value that is right by itself.</summary>
    public void Report<T>(ManifestValue<T> value, string message) => errors.Add(new ManifestError(value.At, value.Path, message));

    /// <summary>Says that a key that is there does not belong there.</summary>
    public void Report(Field field, string message) => errors.Add(new ManifestError(values[field.Name].At, path.Length == 0 ? field.Name : $"{path}.{field.Name}", message));

    /// <summary>Reads the value of a key, or takes what stands for its absence.</summary>
    public ManifestValue<T> Read<T>(Field<T> field, T absent) => Read(field) ?? Absent(absent);

    /// <summary>A value that the manifest leaves out.</summary>
    public ManifestValue<T> Absent<T>(T value) => new(value, at, path);
}
