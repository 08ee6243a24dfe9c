using System.Xml.Linq;
using Xunit;

namespace Virtbus.Tests.House;

/// <summary>An arrow of dependency points down only; hardware is seen only through its contract. TD-08.</summary>
public sealed class LayeringTests
{
    // From the ground up. A driver calls its subsystem's register function, so drivers stand above subsystems.
    private static readonly string[] Floors = ["Platform", "Memory", "Pci", "Core", "Buses", "Subsystems", "Drivers", "Transports", "Daemon", "Cli"];

    private static readonly Dictionary<string, string[]> Only = new()
    {
        ["Block"] = ["Platform", "Memory"],
        ["Hardware"] = ["Platform", "Memory", "Pci", "Block"],
        ["Vm"] = ["Platform"],
    };

    private static readonly (string From, string To)[] Never = [("Transports", "Drivers"), ("Transports", "Hardware")];

    [Fact]
    public void No_project_refers_to_a_floor_above_it()
    {
        var source = Path.Combine(RepositoryRoot(), "src");
        var projects = Directory.EnumerateFiles(source, "*.csproj", SearchOption.AllDirectories).ToList();
        Assert.NotEmpty(projects);
        var wrong = new List<string>();
        foreach (var project in projects)
        {
            var from = FloorOf(project, source);
            // What is only built beside a project is no reference of its code.
            var references = XDocument.Load(project).Descendants("ProjectReference").Where(r => (string?)r.Attribute("ReferenceOutputAssembly") != "false");
            foreach (var reference in references.SelectMany(r => ((string)r.Attribute("Include")!).Split(';')))
            {
                var to = FloorOf(Path.GetFullPath(Path.Combine(Path.GetDirectoryName(project)!, reference)), source);
                if (from != to && !Allowed(from, to))
                    wrong.Add($"{Path.GetFileName(project)}: {from} must not refer to {to}");
            }
        }
        Assert.Empty(wrong);
    }

    [Theory]
    [InlineData("Core", "Buses", false)]
    [InlineData("Buses", "Core", true)]
    [InlineData("Subsystems", "Drivers", false)]
    [InlineData("Transports", "Drivers", false)]
    [InlineData("Transports", "Subsystems", true)]
    [InlineData("Hardware", "Core", false)]
    [InlineData("Core", "Hardware", false)]
    [InlineData("Drivers", "Hardware", false)]
    [InlineData("Subsystems", "Hardware", false)]
    [InlineData("Transports", "Hardware", false)]
    [InlineData("Drivers", "Vm", false)]
    [InlineData("Block", "Pci", false)]
    [InlineData("Block", "Memory", true)]
    [InlineData("Hardware", "Block", true)]
    [InlineData("Memory", "Block", false)]
    [InlineData("Transports", "Block", false)]
    [InlineData("Daemon", "Hardware", true)]
    [InlineData("Vm", "Memory", false)]
    [InlineData("Cli", "Vm", true)]
    public void Rules_say_no_where_they_must(string from, string to, bool allowed) => Assert.Equal(allowed, Allowed(from, to));

    private static bool Allowed(string from, string to)
    {
        if (Never.Contains((from, to)))
            return false;
        if (Only.TryGetValue(from, out var only))
            return only.Contains(to);
        // The daemon puts hardware and machines together with the rest; nobody below sees them: a driver sees registers, memory and interrupts.
        if (Only.ContainsKey(to))
            return Array.IndexOf(Floors, from) >= Array.IndexOf(Floors, "Daemon");
        return Array.IndexOf(Floors, to) >= 0 && Array.IndexOf(Floors, to) < Array.IndexOf(Floors, from);
    }

    private static string FloorOf(string project, string source) => Path.GetRelativePath(source, project).Split(Path.DirectorySeparatorChar)[0];

    internal static string RepositoryRoot()
    {
        for (var folder = new DirectoryInfo(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            if (File.Exists(Path.Combine(folder.FullName, "Virtbus.slnx")))
                return folder.FullName;
        }
        throw new InvalidOperationException("The tests do not run inside the repository.");
    }
}
