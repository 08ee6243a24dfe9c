using System.Xml.Linq;

namespace Virtbus.Tests.House;

/// <summary>An arrow of dependency points down only; hardware is seen only through its contract. TD-08.</summary>
public sealed class LayeringTests
{
    // What a floor may refer to; transitive. A driver calls its subsystem's register function, so drivers stand above subsystems.
    private static readonly Dictionary<string, string[]> Floors = new()
    {
        ["Platform"] = [],
        ["Memory"] = ["Platform"],
        ["Wire"] = ["Platform"],
        ["Core"] = ["Platform"],
        ["Vm"] = ["Platform"],
        ["Virtio"] = ["Memory"],
        ["Ethernet"] = ["Memory"],
        ["Block"] = ["Memory"],
        ["Pci"] = ["Memory"],
        ["Models"] = ["Virtio", "Block", "Ethernet"],
        ["Hardware"] = ["Pci", "Ethernet", "Models"],
        ["Provisioning"] = ["Core"],
        ["Buses"] = ["Provisioning", "Pci", "Virtio"],
        ["Subsystems"] = ["Buses", "Ethernet", "Block"],
        ["Drivers"] = ["Subsystems", "Models"],
        ["Remote.Pci"] = ["Pci", "Wire"],
        ["Transports"] = ["Subsystems", "Wire"],
        // It puts hardware, drivers and transports together; nobody below sees hardware: a driver sees registers, memory and interrupts.
        ["Daemon"] = ["Transports", "Hardware", "Remote.Pci"],
        // A library for users too: all but the program.
        ["Testing"] = ["Transports", "Hardware", "Remote.Pci", "Drivers"],
        ["Cli"] = ["Daemon", "Vm"],
    };

    [Fact]
    public void No_project_reaches_a_floor_above_it()
    {
        var source = Path.Combine(RepositoryRoot(), "src");
        var projects = Directory.EnumerateFiles(source, "*.csproj", SearchOption.AllDirectories).ToList();
        Assert.NotEmpty(projects);
        var wrong = new List<string>();
        foreach (var project in projects)
        {
            var from = FloorOf(project, source);
            foreach (var to in Closure(project).Select(p => FloorOf(p, source)).Distinct())
            {
                if (from != to && !Allowed(from, to))
                    wrong.Add($"{Path.GetFileName(project)}: {from} must not reach {to}");
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
    [InlineData("Ethernet", "Pci", false)]
    [InlineData("Pci", "Ethernet", false)]
    [InlineData("Hardware", "Ethernet", true)]
    [InlineData("Models", "Ethernet", true)]
    [InlineData("Ethernet", "Virtio", false)]
    [InlineData("Subsystems", "Ethernet", true)]
    [InlineData("Subsystems", "Block", true)]
    [InlineData("Block", "Subsystems", false)]
    [InlineData("Drivers", "Vm", false)]
    [InlineData("Block", "Pci", false)]
    [InlineData("Block", "Memory", true)]
    [InlineData("Hardware", "Block", true)]
    [InlineData("Memory", "Block", false)]
    [InlineData("Transports", "Block", true)]
    [InlineData("Daemon", "Hardware", true)]
    [InlineData("Vm", "Memory", false)]
    [InlineData("Cli", "Vm", true)]
    [InlineData("Virtio", "Pci", false)]
    [InlineData("Memory", "Virtio", false)]
    [InlineData("Transports", "Virtio", true)]
    [InlineData("Models", "Pci", false)]
    [InlineData("Buses", "Models", false)]
    [InlineData("Drivers", "Models", true)]
    [InlineData("Provisioning", "Pci", false)]
    [InlineData("Core", "Provisioning", false)]
    [InlineData("Drivers", "Provisioning", true)]
    [InlineData("Transports", "Wire", true)]
    [InlineData("Subsystems", "Wire", false)]
    [InlineData("Wire", "Memory", false)]
    [InlineData("Remote.Pci", "Wire", true)]
    [InlineData("Remote.Pci", "Memory", true)]
    [InlineData("Remote.Pci", "Buses", false)]
    [InlineData("Remote.Pci", "Subsystems", false)]
    [InlineData("Transports", "Remote.Pci", false)]
    [InlineData("Drivers", "Remote.Pci", false)]
    [InlineData("Daemon", "Remote.Pci", true)]
    public void Rules_say_no_where_they_must(string from, string to, bool allowed) => Assert.Equal(allowed, Allowed(from, to));

    // The daemon is tested as the program's process; the library for tests by a project outside of the tree.
    [Fact]
    public void Every_floor_has_a_project_of_tests_that_refers_to_it()
    {
        foreach (var floor in Floors.Keys.Except(["Daemon", "Testing"]).Select(static f => f.Split('.')[0]))
        {
            var project = Path.Combine(RepositoryRoot(), "tests", $"Virtbus.Tests.{floor}", $"Virtbus.Tests.{floor}.csproj");
            Assert.Contains(XDocument.Load(project).Descendants("ProjectReference"), r => ((string)r.Attribute("Include")!).StartsWith($"../../src/{floor}/", StringComparison.Ordinal));
        }
    }

    private static bool Allowed(string from, string to) => Floors[from].Any(f => f == to || Allowed(f, to));

    private static HashSet<string> Closure(string project)
    {
        var seen = new HashSet<string>();
        var open = new Queue<string>([project]);
        while (open.TryDequeue(out var next))
        {
            // What is only built beside a project is no reference of its code.
            var references = XDocument.Load(next).Descendants("ProjectReference").Where(r => (string?)r.Attribute("ReferenceOutputAssembly") != "false");
            foreach (var reference in references.SelectMany(r => ((string)r.Attribute("Include")!).Split(';')))
            {
                var path = Path.GetFullPath(Path.Combine(Path.GetDirectoryName(next)!, reference));
                if (seen.Add(path))
                    open.Enqueue(path);
            }
        }
        return seen;
    }

    // Of what is remote, each kind is a floor of its own.
    private static string FloorOf(string project, string source) => Path.GetRelativePath(source, project).Split(Path.DirectorySeparatorChar) switch
    {
        ["Remote", var kind, ..] => "Remote." + kind,
        var parts => parts[0],
    };

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
