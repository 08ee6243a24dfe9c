using System.Globalization;
using System.Text.RegularExpressions;

namespace Virtbus.Tests.Docs;

/// <summary>What the pages name exists.</summary>
public sealed partial class DocsTests
{
    private static readonly string Root = FindRoot();

    private static IEnumerable<string> Pages =>
        Directory.EnumerateFiles(Root, "*.md").Concat(Directory.EnumerateFiles(Path.Combine(Root, "docs"), "*.md")).Append(Path.Combine(Root, "bench", "README.md"));

    [Fact]
    public void Every_test_that_the_specification_names_exists()
    {
        var methods = new Dictionary<string, string>();
        foreach (var file in Directory.EnumerateFiles(Path.Combine(Root, "tests"), "*.cs", SearchOption.AllDirectories))
        {
            // A class may have several files.
            foreach (Match name in Classes().Matches(File.ReadAllText(file)))
                methods[name.Groups["name"].Value] = methods.GetValueOrDefault(name.Groups["name"].Value) + File.ReadAllText(file);
        }
        var named = Tests().Matches(File.ReadAllText(Path.Combine(Root, "SPEC.md"))).Select(m => (Class: m.Groups["class"].Value, Method: m.Groups["method"].Value)).ToList();
        Assert.NotEmpty(named);
        Assert.Empty(named.Where(t => !methods.GetValueOrDefault(t.Class, "").Contains($" {t.Method}(", StringComparison.Ordinal)).Distinct());
    }

    [Fact]
    public void Every_requirement_has_one_row_that_says_whether_it_is_kept()
    {
        var lines = File.ReadAllLines(Path.Combine(Root, "SPEC.md"));
        var groups = lines.Select(l => Groups().Match(l)).Where(m => m.Success).ToList();
        var rows = lines.Select(l => Rows().Match(l)).Where(m => m.Success)
            .SelectMany(m => m.Groups["ids"].Value.Split(", ").Select(id => (Id: id, Text: m.Groups["text"].Value)))
            .ToList();
        // As many as the project began with.
        var wanted = groups.SelectMany(g => Enumerable.Range(1, int.Parse(g.Groups["last"].Value, CultureInfo.InvariantCulture)).Select(n => $"{g.Groups["group"].Value}-{n:00}")).ToList();
        Assert.Equal(223, wanted.Count);
        Assert.Equal(wanted.Order(StringComparer.Ordinal), rows.Select(r => r.Id).Order(StringComparer.Ordinal));
        foreach (var group in groups)
        {
            var name = group.Groups["group"].Value;
            var own = rows.Where(r => r.Id.StartsWith(name, StringComparison.Ordinal)).ToList();
            Assert.Equal(
                $"{name}: {own.Count(r => StateOf(r.Text) == "")} kept, {own.Count(r => StateOf(r.Text) == "partly")} partly, {own.Count(r => StateOf(r.Text) == "not yet")} not yet",
                $"{name}: {group.Groups["kept"].Value} kept, {group.Groups["partly"].Value} partly, {group.Groups["later"].Value} not yet");
        }
        // What is missing is said.
        Assert.All(rows, r => Assert.True(StateOf(r.Text) == "" || Reasons().IsMatch(r.Text), r.Id));
        // What is kept names what shows it: a test, a rule that a document has, or code.
        Assert.All(rows, r => Assert.True(StateOf(r.Text) != "" || r.Text.Contains('`', StringComparison.Ordinal) || r.Text.Contains("](", StringComparison.Ordinal), r.Id));

        static string StateOf(string text) => text.Contains("**not yet**", StringComparison.Ordinal) ? "not yet" : text.Contains("**partly**", StringComparison.Ordinal) ? "partly" : "";
    }

    [Fact]
    public void Every_path_has_the_owners_group()
    {
        var rules = File.ReadAllLines(Path.Combine(Root, "CODEOWNERS")).Where(l => l.Length > 0 && l[0] != '#').ToList();
        Assert.StartsWith("* @", rules[0], StringComparison.Ordinal);
        // The last rule that fits a path counts, so each has an owner, and that is a group of an organization and no person.
        Assert.All(rules, rule => Assert.Matches(@"^\S+( @[a-z0-9-]+/[a-z0-9-]+)+$", rule));
        Assert.All(rules.Skip(1), rule => Assert.True(Path.Exists(Path.Combine(Root, rule.Split(' ')[0].Trim('/'))), rule));
    }

    [Fact]
    public void Every_relative_link_leads_to_a_file()
    {
        var dead = Pages.SelectMany(page => Links().Matches(File.ReadAllText(page))
            .Select(m => m.Groups["target"].Value)
            .Where(target => !target.Contains("://", StringComparison.Ordinal) && !Path.Exists(Path.Combine(Path.GetDirectoryName(page)!, target)))
            .Select(target => $"{Path.GetRelativePath(Root, page)}: {target}"));
        Assert.Empty(dead);
    }

    private static string FindRoot()
    {
        var folder = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(folder, "Virtbus.slnx")))
            folder = Path.GetDirectoryName(folder) ?? throw new DirectoryNotFoundException("The pages are tested from within the source.");
        return folder;
    }

    [GeneratedRegex(@"\bclass (?<name>\w+)", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Classes();

    [GeneratedRegex(@"`(?<class>\w+Tests)\.(?<method>\w+)`", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Tests();

    [GeneratedRegex(@"^\| (?<group>[A-Z]{2})-01 to [A-Z]{2}-(?<last>\d\d) \| [^|]* \| (?<kept>\d+) \| (?<partly>\d+) \| (?<later>\d+) \|$", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Groups();

    [GeneratedRegex(@"^\| (?<ids>[A-Z]{2}-\d\d(, [A-Z]{2}-\d\d)*) \|(?<text>.*)$", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Rows();

    [GeneratedRegex(@"\*\*(partly|not yet)\*\*: \S", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Reasons();

    [GeneratedRegex(@"\]\((?<target>[^)#\s]+)(#[^)]*)?\)", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Links();
}
