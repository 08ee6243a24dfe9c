using System.Xml.Linq;
using Virtbus.Buses.Auxiliary;
using Virtbus.Buses.Pci;
using Virtbus.Buses.Vdpa;
using Virtbus.Buses.Virtio;
using Virtbus.Core;

namespace Virtbus.Tests.House;

/// <summary>THREATS.md says of each driver who owns its device's DMA, and the drivers do what it says. VS-05.</summary>
public sealed class ThreatsTests : IDisposable
{
    private const string Header = "| driver | owner | does DMA | model |";
    private static readonly string[] Correct = [Header, "|---|---|---|---|", "| `host` | driver | yes | rings |", "| `user` | user | no | none |", "| `part` | none | no | none |"];
    private static readonly (string Name, string Owner)[] Drivers = [("host", "driver"), ("user", "user"), ("part", "none")];

    private readonly ModuleFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task Every_driver_stands_in_the_table_with_the_owner_of_its_DMA()
    {
        var modules = Directory.EnumerateFiles(Path.Combine(LayeringTests.RepositoryRoot(), "src", "Drivers"), "*.csproj", SearchOption.AllDirectories)
            .Where(p => XDocument.Load(p).Descendants("FabricModule").Any(m => m.Value == "true"))
            .Select(p => Path.GetFileNameWithoutExtension(p))
            .Order(StringComparer.Ordinal)
            .ToArray();
        Assert.NotEmpty(modules);
        _folder.Sample(modules);
        var fabric = new Fabric();
        foreach (var bus in new Bus[] { new AuxiliaryBus(), new PciBus(), new VdpaBus(), new VirtioBus() })
            fabric.RegisterBus(bus);
        using var loader = new ModuleLoader(fabric, _folder.Path, watch: false);
        foreach (var module in modules)
            await loader.LoadAsync(module);
        var drivers = fabric.Buses.SelectMany(b => b.Drivers).ToArray();
        var found = drivers.Select(d => (d.Name, OwnerOf(d))).ToArray();
        var classes = drivers.Select(d => d.GetType().Assembly).Distinct().SelectMany(a => a.GetTypes()).Where(t => t.IsSubclassOf(typeof(Driver)) && !t.IsAbstract);
        var idle = classes.Except(drivers.Select(d => d.GetType())).Select(t => t.Name).ToArray();
        await loader.UnloadAllAsync();
        Assert.Empty(idle);
        Assert.Empty(Differences(await File.ReadAllLinesAsync(Path.Combine(LayeringTests.RepositoryRoot(), "THREATS.md"), TestContext.Current.CancellationToken), found));
    }

    [Fact]
    public void Table_that_says_what_is_so_has_no_differences() => Assert.Empty(Differences(Correct, Drivers));

    [Theory]
    [InlineData(0, "| nothing |", "there is no table with the columns driver, owner, does DMA, model")]
    [InlineData(2, "", "driver host has no row")]
    [InlineData(2, "| `host` | user | no | rings |", "driver host: the owner is driver, the table says user")]
    [InlineData(3, "| `user` | driver | no | none |", "driver user: the owner is user, the table says driver")]
    [InlineData(4, "| `part` | driver | no | none |", "driver part: the owner is none, the table says driver")]
    [InlineData(3, "| `user` | user | yes | none |", "driver user: who does not own the DMA does none, the table says yes")]
    [InlineData(3, "| `user` | user | perhaps | none |", "driver user: it does DMA or not, the table says perhaps")]
    [InlineData(3, "| `user` | user | no | |", "driver user: the model is not told")]
    [InlineData(3, "| `user` | user | no |", "row '| `user` | user | no |' has not four cells")]
    [InlineData(3, "| `gone` | none | no | none |", "driver gone is in no module", "driver user has no row")]
    [InlineData(3, "| `host` | driver | yes | rings |", "driver host has two rows", "driver user has no row")]
    public void Table_that_says_what_is_not_so_is_found(int line, string text, params string[] differences)
    {
        var lines = Correct.ToArray();
        lines[line] = text;
        if (text.Length == 0)
            lines = [.. Correct[..line], .. Correct[(line + 1)..]];
        var found = Differences(lines, Drivers);
        Assert.Equal(differences, found.Intersect(differences));
    }

    private static string OwnerOf(Driver driver) => driver is not PciDriver pci ? "none" : pci.IsDmaManagedByUser ? "user" : "driver";

    // What the table and the drivers do not agree on.
    private static List<string> Differences(IReadOnlyList<string> lines, IReadOnlyList<(string Name, string Owner)> drivers)
    {
        var header = lines.ToList().IndexOf(Header);
        if (header < 0)
            return ["there is no table with the columns driver, owner, does DMA, model"];
        var wrong = new List<string>();
        var rows = new Dictionary<string, string[]>();
        // Behind the line of dashes.
        foreach (var line in lines.Skip(header + 2).TakeWhile(l => l.StartsWith('|')))
        {
            var cells = line.Trim().Trim('|').Split('|', StringSplitOptions.TrimEntries);
            if (cells.Length != 4)
                wrong.Add($"row '{line}' has not four cells");
            else if (!rows.TryAdd(cells[0].Trim('`'), cells))
                wrong.Add($"driver {cells[0].Trim('`')} has two rows");
        }
        wrong.AddRange(rows.Keys.Except(drivers.Select(d => d.Name)).Select(n => $"driver {n} is in no module"));
        foreach (var (name, owner) in drivers)
        {
            if (!rows.TryGetValue(name, out var row))
            {
                wrong.Add($"driver {name} has no row");
                continue;
            }
            if (row[1] != owner)
                wrong.Add($"driver {name}: the owner is {owner}, the table says {row[1]}");
            if (row[2] is not ("yes" or "no"))
                wrong.Add($"driver {name}: it does DMA or not, the table says {row[2]}");
            else if (owner != "driver" && row[2] == "yes")
                wrong.Add($"driver {name}: who does not own the DMA does none, the table says yes");
            if (row[3].Length == 0)
                wrong.Add($"driver {name}: the model is not told");
        }
        return wrong;
    }
}
