using System.Text.RegularExpressions;
using Xunit;

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

    [GeneratedRegex(@"\]\((?<target>[^)#\s]+)(#[^)]*)?\)", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex Links();
}
