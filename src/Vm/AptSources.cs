using Virtbus.Platform;

namespace Virtbus.Vm;

/// <summary>One package source of apt.</summary>
/// <param name="Uri">Where the archive is.</param>
/// <param name="Suites">The suites taken from it.</param>
/// <param name="Components">The components taken from them.</param>
internal sealed record AptSource(string Uri, IReadOnlyList<string> Suites, IReadOnlyList<string> Components);

/// <summary>Reads apt's sources, one-line and deb822, to learn which Debian mirror this machine uses.</summary>
internal static class AptSources
{
    private static readonly string[] DebianSuites =
        ["bullseye", "bookworm", "trixie", "forky", "sid", "oldoldstable", "oldstable", "stable", "testing", "unstable"];

    /// <summary>The mirror of the Debian archive that the sources under a folder (normally /etc/apt) name.</summary>
    public static string DebianMirror(string folder)
    {
        IEnumerable<AptSource> sources = Files(folder).SelectMany(Read);
        return FindDebianMirror(sources)
            ?? throw new VirtbusException(
                Errno.ENOENT, $"No source under '{folder}' names a Debian archive over HTTP. Add one there, or set VIRTBUS_QEMU to a QEMU that has the device.");
    }

    /// <summary>The first source that is the main Debian archive (neither security nor a third party), or null.</summary>
    public static string? FindDebianMirror(IEnumerable<AptSource> sources) => sources
        .FirstOrDefault(source =>
            source.Uri.StartsWith("http", StringComparison.Ordinal)
            && source.Components.Contains("main")
            && source.Suites.Any(suite => DebianSuites.Contains(suite)))
        ?.Uri.TrimEnd('/');

    /// <summary>Parses the one-line format: <c>deb [options] uri suite component...</c>.</summary>
    public static IReadOnlyList<AptSource> ParseOneLine(string text)
    {
        List<AptSource> sources = [];
        foreach (string raw in text.Split('\n'))
        {
            string line = raw.Split('#')[0].Trim();
            if (line.Length == 0 || Words(line)[0] != "deb")
                continue;
            line = line[3..].TrimStart();
            if (line.StartsWith('['))
                line = line[(line.IndexOf(']') + 1)..];
            string[] words = Words(line);
            if (words.Length >= 2)
                sources.Add(new AptSource(words[0], [words[1]], words[2..]));
        }

        return sources;
    }

    /// <summary>Parses the deb822 format: stanzas of fields, with continuation lines and comments anywhere.</summary>
    public static IReadOnlyList<AptSource> ParseDeb822(string text)
    {
        List<AptSource> sources = [];
        Dictionary<string, string> fields = new(StringComparer.OrdinalIgnoreCase);
        string last = "";
        foreach (string line in text.Split('\n').Append(""))
        {
            if (line.StartsWith('#'))
                continue;
            if (string.IsNullOrWhiteSpace(line))
            {
                Add(sources, fields);
                fields.Clear();
            }
            else if (char.IsWhiteSpace(line[0]) && last.Length != 0)
            {
                fields[last] = $"{fields.GetValueOrDefault(last)} {line.Trim()}";
            }
            else if (line.IndexOf(':') is > 0 and int colon)
            {
                last = line[..colon];
                fields[last] = line[(colon + 1)..].Trim();
            }
        }

        return sources;
    }

    private static void Add(List<AptSource> sources, Dictionary<string, string> fields)
    {
        string[] Field(string name) => Words(fields.GetValueOrDefault(name, ""));
        bool disabled = fields.GetValueOrDefault("Enabled", "yes") is "no" or "false" or "0";
        if (disabled || !Field("Types").Contains("deb"))
            return;
        foreach (string uri in Field("URIs"))
            sources.Add(new AptSource(uri, Field("Suites"), Field("Components")));
    }

    private static IEnumerable<string> Files(string folder)
    {
        string parts = Path.Combine(folder, "sources.list.d");
        IEnumerable<string> more = Directory.Exists(parts) ? Directory.EnumerateFiles(parts).Order(StringComparer.Ordinal) : [];
        return more.Prepend(Path.Combine(folder, "sources.list")).Where(File.Exists);
    }

    private static IReadOnlyList<AptSource> Read(string file) => Path.GetExtension(file) switch
    {
        ".sources" => ParseDeb822(File.ReadAllText(file)),
        ".list" => ParseOneLine(File.ReadAllText(file)),
        _ => [],
    };

    private static string[] Words(string text) => text.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);
}
