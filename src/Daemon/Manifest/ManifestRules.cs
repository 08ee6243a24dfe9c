using System.Globalization;
using System.Net.NetworkInformation;
using System.Text;
using System.Text.Json;
using Virtbus.Platform;

namespace Virtbus.Daemon.Manifest;

/// <summary>What a value must be: the one place from which both the reader and the JSON schema follow.</summary>
internal abstract class Rule
{
    /// <summary>Writes the members of the JSON schema object for the value.</summary>
    /// <param name="json">Stands inside the object.</param>
    public abstract void WriteSchema(Utf8JsonWriter json);
}

/// <summary>A rule for values of a type.</summary>
/// <typeparam name="T">The type.</typeparam>
internal abstract class Rule<T> : Rule
{
    /// <summary>Reads a node; reports what is wrong.</summary>
    /// <param name="node">The node.</param>
    /// <param name="path">Its path in the document.</param>
    /// <param name="errors">Gets what is wrong.</param>
    /// <param name="value">The value.</param>
    /// <returns>Whether there is a value.</returns>
    public abstract bool TryRead(ManifestNode node, string path, List<ManifestError> errors, out T value);
}

/// <summary>A rule for a word or number, which says in one phrase what is right.</summary>
/// <typeparam name="T">The type.</typeparam>
internal abstract class ScalarRule<T> : Rule<T>
{
    /// <summary>What is right: completes "Write …".</summary>
    public abstract string Expected { get; }

    /// <summary>The words that the value can be, when they are few.</summary>
    public virtual IReadOnlyList<string> Words => [];

    protected abstract bool TryParse(string text, out T value);

    /// <summary>What was likely meant, as a sentence with a blank before it; nothing when that can't be told.</summary>
    protected virtual string HintFor(string text) => Suggestion.For(text, Words);

    public override bool TryRead(ManifestNode node, string path, List<ManifestError> errors, out T value)
    {
        value = default!;
        if (node is ScalarNode { IsNull: false } scalar && TryParse(scalar.Text, out value))
            return true;
        var hint = node is ScalarNode { IsNull: false } word ? HintFor(word.Text) : "";
        errors.Add(new ManifestError(node.At, path, $"{node.Kind} is not right here.{hint} Write {Expected}."));
        return false;
    }
}

/// <summary>Text of certain characters.</summary>
internal sealed class TextRule(string expected, string pattern, int maxLength) : ScalarRule<string>
{
    private readonly System.Text.RegularExpressions.Regex _pattern =
        new(pattern, System.Text.RegularExpressions.RegexOptions.CultureInvariant, TimeSpan.FromSeconds(1));

    public override string Expected => expected;

    protected override bool TryParse(string text, out string value)
    {
        value = text;
        return text.Length <= maxLength && _pattern.IsMatch(text);
    }

    public override void WriteSchema(Utf8JsonWriter json)
    {
        // A name may be written as a number: YAML has no other way to tell them apart than quotes.
        json.WriteStartArray("type");
        json.WriteStringValue("string");
        json.WriteStringValue("number");
        json.WriteEndArray();
        json.WriteString("pattern", pattern);
        json.WriteNumber("maxLength", maxLength);
    }
}

/// <summary>One of a few words: the lower-case names of an enum.</summary>
/// <typeparam name="T">The enum.</typeparam>
internal sealed class ChoiceRule<T> : ScalarRule<T>
    where T : struct, Enum
{
    private readonly Dictionary<string, T> _values =
        Enum.GetValues<T>().Where(v => Convert.ToInt32(v) != 0 || !typeof(T).IsDefined(typeof(FlagsAttribute), false)).ToDictionary(v => v.ToString().ToLowerInvariant());

    public override IReadOnlyList<string> Words => [.. _values.Keys];

    public override string Expected => string.Join(" or ", _values.Keys);

    protected override bool TryParse(string text, out T value) => _values.TryGetValue(text, out value);

    public override void WriteSchema(Utf8JsonWriter json)
    {
        json.WriteStartArray("enum");
        foreach (var word in _values.Keys)
            json.WriteStringValue(word);
        json.WriteEndArray();
    }
}

/// <summary>true or false.</summary>
internal sealed class BooleanRule : ScalarRule<bool>
{
    public override IReadOnlyList<string> Words => ["true", "false"];

    public override string Expected => "true or false";

    protected override bool TryParse(string text, out bool value)
    {
        value = text == "true";
        return text is "true" or "false";
    }

    public override void WriteSchema(Utf8JsonWriter json) => json.WriteString("type", "boolean");
}

/// <summary>A whole number within bounds.</summary>
internal sealed class CountRule(int min, int max) : ScalarRule<int>
{
    public override string Expected => $"a whole number from {min} to {max}";

    protected override bool TryParse(string text, out int value) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out value) && value >= min && value <= max;

    public override void WriteSchema(Utf8JsonWriter json)
    {
        json.WriteString("type", "integer");
        json.WriteNumber("minimum", min);
        json.WriteNumber("maximum", max);
    }
}

/// <summary>A number of bytes that sectors fill, with a unit of powers of 1024.</summary>
internal sealed class SizeRule : ScalarRule<long>
{
    private const int Sector = 512;
    private const long Max = 1L << 50;
    private static readonly (string Unit, int Shift)[] Units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];

    public override string Expected => "a size such as 512KiB, 64MiB or 1GiB, or a number of bytes; a multiple of 512 up to 1024TiB";

    protected override string HintFor(string text) => Suggestion.ForSize(text);

    protected override bool TryParse(string text, out long value)
    {
        var shift = 0;
        foreach (var (unit, by) in Units)
        {
            if (!text.EndsWith(unit, StringComparison.Ordinal))
                continue;
            (text, shift) = (text[..^unit.Length].TrimEnd(' '), by);
            break;
        }
        value = 0;
        if (!long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var number) || number > Max >> shift)
            return false;
        value = number << shift;
        return value > 0 && value % Sector == 0;
    }

    public override void WriteSchema(Utf8JsonWriter json)
    {
        json.WriteStartArray("type");
        json.WriteStringValue("string");
        json.WriteStringValue("integer");
        json.WriteEndArray();
        json.WriteString("pattern", "^[0-9]+( ?(KiB|MiB|GiB|TiB))?$");
        json.WriteNumber("minimum", Sector);
        json.WriteNumber("multipleOf", Sector);
    }
}

/// <summary>A station address for one interface.</summary>
internal sealed class MacRule : ScalarRule<PhysicalAddress>
{
    public override string Expected => "six pairs of hexadecimal digits with ':' between them, the first pair even (a station, not a group), for example 02:00:00:00:00:01";

    protected override bool TryParse(string text, out PhysicalAddress value)
    {
        value = PhysicalAddress.None;
        if (text.Length != 17 || text.Where((c, i) => i % 3 == 2 ? c != ':' : !char.IsAsciiHexDigit(c)).Any())
            return false;
        value = PhysicalAddress.Parse(text.ToUpperInvariant());
        var bytes = value.GetAddressBytes();
        return (bytes[0] & 1) == 0 && bytes.Any(b => b != 0);
    }

    public override void WriteSchema(Utf8JsonWriter json)
    {
        json.WriteString("type", "string");
        json.WriteString("pattern", "^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$");
    }
}

/// <summary>The path of a file, or of a folder or socket that is there; relative paths start at the manifest's folder.</summary>
internal sealed class PathRule(string baseFolder, PathKind kind) : ScalarRule<string>
{
    public override string Expected => $"the path of a {kind.ToString().ToLowerInvariant()}";

    protected override bool TryParse(string text, out string value)
    {
        value = text;
        return text.Length > 0 && !text.Contains('\0');
    }

    public override bool TryRead(ManifestNode node, string path, List<ManifestError> errors, out string value)
    {
        if (!base.TryRead(node, path, errors, out value))
            return false;
        value = Path.GetFullPath(value, baseFolder);
        if (FaultOf(value) is not { } fault)
            return true;
        errors.Add(new ManifestError(node.At, path, fault));
        return false;
    }

    private string? FaultOf(string target) => kind switch
    {
        PathKind.Folder => WhyNot(target, FileKind.Directory, "Make the folder, or name one that is there."),
        PathKind.Socket => WhyNot(target, FileKind.Socket, "Start the server that makes it, or name its socket."),
        // Whoever opens the file says what is wrong with it.
        _ => null,
    };

    private static string? WhyNot(string target, FileKind wanted, string remedy)
    {
        const string Permissions = "Change its permissions and those of its folders, or name another.";
        if (!FileStatus.TryGetTarget(target, out var status, out var error))
            return error is Errno.ENOENT or Errno.ENOTDIR ? $"{target} does not exist. {remedy}" : $"{target} may not be looked at: {error}. {Permissions}";
        if (status.Kind != wanted)
        {
            var what = status.Kind switch
            {
                FileKind.Directory => "a folder",
                FileKind.Socket => "a socket",
                _ => "a file",
            };
            return $"{target} is {what}. {remedy}";
        }
        if (wanted != FileKind.Directory)
            return null;
        using var opened = FileDescriptor.TryOpen(target, writable: false, out error);
        // What is in a folder is found with the right to enter it, which opening it does not need.
        return opened is not null && FileStatus.TryGetTarget(target + "/.", out _, out error) ? null : $"{target} may not be read: {error}. {Permissions}";
    }

    public override void WriteSchema(Utf8JsonWriter json)
    {
        json.WriteString("type", "string");
        json.WriteNumber("minLength", 1);
    }
}

/// <summary>What a path leads to.</summary>
internal enum PathKind
{
    /// <summary>A file.</summary>
    File,

    /// <summary>A folder.</summary>
    Folder,

    /// <summary>A Unix socket.</summary>
    Socket,
}

/// <summary>Text that fits into a field of the virtio-blk identity.</summary>
internal sealed class SerialRule(int maxBytes) : ScalarRule<string>
{
    public override string Expected => $"1 to {maxBytes} printable ASCII characters";

    protected override bool TryParse(string text, out string value)
    {
        value = text;
        return text.Length > 0 && Encoding.UTF8.GetByteCount(text) <= maxBytes && text.All(c => c is >= ' ' and <= '~');
    }

    public override void WriteSchema(Utf8JsonWriter json)
    {
        json.WriteStartArray("type");
        json.WriteStringValue("string");
        json.WriteStringValue("number");
        json.WriteEndArray();
        json.WriteString("pattern", $"^[ -~]{{1,{maxBytes}}}$");
    }
}

/// <summary>A list.</summary>
/// <typeparam name="T">What it lists.</typeparam>
internal sealed class ListRule<T>(Rule<T> item, bool unique = false) : Rule<IReadOnlyList<ManifestValue<T>>>
{
    public override bool TryRead(ManifestNode node, string path, List<ManifestError> errors, out IReadOnlyList<ManifestValue<T>> value)
    {
        value = [];
        if (node is not SequenceNode sequence)
        {
            errors.Add(new ManifestError(node.At, path, $"{node.Kind} is not right here. Write a list, or remove the key."));
            return false;
        }
        var items = new List<ManifestValue<T>>();
        for (var i = 0; i < sequence.Items.Count && errors.Count < ManifestError.MaxKept; i++)
        {
            var at = sequence.Items[i].At;
            if (!item.TryRead(sequence.Items[i], $"{path}[{i}]", errors, out var one))
                continue;
            if (unique && items.Any(o => Equals(o.Value, one)))
                errors.Add(new ManifestError(at, $"{path}[{i}]", $"{sequence.Items[i].Kind} is in the list already. Remove one of the two."));
            else
                items.Add(new ManifestValue<T>(one, at, $"{path}[{i}]"));
        }
        value = items;
        // A set with a wrong member says nothing for sure; other lists keep their good items, so that what refers to these is not wrong too.
        return !unique || items.Count == sequence.Items.Count;
    }

    public override void WriteSchema(Utf8JsonWriter json)
    {
        json.WriteString("type", "array");
        if (unique)
            json.WriteBoolean("uniqueItems", true);
        json.WriteStartObject("items");
        item.WriteSchema(json);
        json.WriteEndObject();
    }
}
