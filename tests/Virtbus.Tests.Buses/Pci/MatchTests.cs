using Virtbus.Buses.Pci;
using Virtbus.Core;
using Virtbus.Platform;

namespace Virtbus.Tests.Buses.Pci;

/// <summary>Which driver gets a function: tables with masks and subsystem ids, dynamic ids, overrides; and the words of events and aliases.</summary>
public sealed class MatchTests
{
    private const string Drivers = "/bus/pci/drivers/";
    private const string Alias = "pci:v00001AF4d000010F5sv00001AF4sd00001100bc02sc00i00";

    // Vendor, device, subsystem vendor, subsystem id, class, mask: against 1af4:10f5, 1af4:1100, class 020000.
    [Theory]
    [InlineData(0x1AF4, 0x10F5, PciDeviceId.Any, PciDeviceId.Any, 0, 0, true)]
    [InlineData(0x1AF4, PciDeviceId.Any, PciDeviceId.Any, PciDeviceId.Any, 0, 0, true)]
    [InlineData(PciDeviceId.Any, PciDeviceId.Any, PciDeviceId.Any, PciDeviceId.Any, 0, 0, true)]
    [InlineData(0x1AF4, 0x10F6, PciDeviceId.Any, PciDeviceId.Any, 0, 0, false)]
    [InlineData(0x8086, 0x10F5, PciDeviceId.Any, PciDeviceId.Any, 0, 0, false)]
    [InlineData(0x1AF4, 0x10F5, 0x1AF4, 0x1100, 0, 0, true)]
    [InlineData(0x1AF4, 0x10F5, 0x1AF4, 0x1101, 0, 0, false)]
    [InlineData(0x1AF4, 0x10F5, 0x1AF5, PciDeviceId.Any, 0, 0, false)]
    [InlineData(PciDeviceId.Any, PciDeviceId.Any, PciDeviceId.Any, PciDeviceId.Any, 0x020000, 0xFFFFFF, true)]
    [InlineData(PciDeviceId.Any, PciDeviceId.Any, PciDeviceId.Any, PciDeviceId.Any, 0x02FFFF, 0xFF0000, true)]
    [InlineData(PciDeviceId.Any, PciDeviceId.Any, PciDeviceId.Any, PciDeviceId.Any, 0x010802, 0xFFFFFF, false)]
    [InlineData(0x1AF4, 0x10F5, PciDeviceId.Any, PciDeviceId.Any, 0x030000, 0xFF0000, false)]
    public async Task Table_entry_serves_what_all_its_fields_allow(
        uint vendor, uint device, uint subsystemVendor, uint subsystemDevice, uint code, uint mask, bool serves)
    {
        var world = await PciWorld.NewAsync();
        var id = new PciDeviceId(vendor, device, subsystemVendor, subsystemDevice, code, mask, 7);
        await world.RegisterAsync("d", id);
        var (_, card) = await world.PlugAsync();
        Assert.Equal(serves, card.Driver is not null);
        // A table that is open to all gets the port too.
        Assert.Equal(serves ? ["d probe 0000:01:00.0 7"] : [], world.Calls.Where(c => c.Contains("0000:01", StringComparison.Ordinal)));
        // The module's alias leads to the same devices, but for masks that are no whole bytes.
        Assert.Equal(serves, AliasPattern.IsMatch(id.ToAlias(), card.Modalias));
        Assert.Equal(serves, world.Bus.Match(card, new TestDriver(world, "other", id)) is not null);
    }

    [Fact]
    public async Task Any_number_of_matches_leaves_the_function_identical_and_answers_alike_from_any_thread()
    {
        var world = await PciWorld.NewAsync();
        var (_, card) = await world.PlugAsync();
        card.SetDriverData("mine");
        var before = Describe(card);
        var random = new Random(1);
        uint[] values = [0x1AF4, 0x10F5, 0x1100, 0x8086, PciDeviceId.Any];
        uint Draw() => values[random.Next(values.Length)];
        var drivers = Enumerable.Range(0, 64).Select(i => new TestDriver(
            world, "d" + i, [.. Enumerable.Range(0, 1 + (i % 4)).Select(n => new PciDeviceId(Draw(), Draw(), Draw(), Draw(), 0, 0, (ulong)n, IsOverrideOnly: i % 7 == 0))])).ToArray();
        var expected = drivers.Select(d => world.Bus.Match(card, d)).ToArray();
        Assert.InRange(expected.Count(id => id is not null), 1, 63);
        Parallel.For(0, 4096, i => Assert.Equal(expected[i % 64], world.Bus.Match(card, drivers[i % 64])));
        Assert.Equal(before, Describe(card));

        static string Describe(PciDevice d)
        {
            var config = new byte[d.ConfigSize];
            d.ReadConfig(0, config);
            return string.Join('|', d.Name, d.State, d.Binding, d.DriverOverride, d.GetDriverData<string>(), d.References, d.Modalias, d.IsEnabled, d.IommuGroup.OwnerKind, Convert.ToHexString(config));
        }
    }

    [Fact]
    public async Task First_registered_driver_wins_whether_it_is_found_by_id_or_by_class()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("class", new PciDeviceId(Class: 0x020000, ClassMask: 0xFF0000));
        await world.RegisterAsync("exact", new PciDeviceId(0x1AF4, 0x10F5));
        var (_, card) = await world.PlugAsync();
        Assert.Equal("class", card.Driver?.Name);
    }

    [Fact]
    public async Task Override_only_entry_counts_for_devices_that_name_the_driver()
    {
        var world = await PciWorld.NewAsync();
        var driver = await world.RegisterAsync("variant", new PciDeviceId(0x1AF4, 0x10F5, DriverData: 3, IsOverrideOnly: true));
        var (_, card) = await world.PlugAsync();
        Assert.Null(card.Driver);
        await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.BindAsync(driver, card.Name));
        await world.WriteAsync(card, "driver_override", "variant");
        await world.Fabric.Tree.WriteAsync("/bus/pci/drivers_probe", card.Name);
        Assert.Same(driver, card.Driver);
        Assert.Equal(["variant probe 0000:01:00.0 3"], world.Calls);
    }

    [Fact]
    public async Task Override_binds_its_driver_to_any_id_and_keeps_others_away()
    {
        var world = await PciWorld.NewAsync();
        var (_, card) = await world.PlugAsync();
        Assert.Equal("(null)\n", world.Read(card.DevPath + "/driver_override"));
        await world.WriteAsync(card, "driver_override", "foreign");
        var right = await world.RegisterAsync("right", new PciDeviceId(0x1AF4, 0x10F5));
        Assert.Null(card.Driver);
        PciDeviceId? got = null;
        var foreign = new TestDriver(world, "foreign", new PciDeviceId(0x8086, 0x1)) { OnProbe = (_, id) => { got = id; return default; } };
        await world.Fabric.RegisterDriverAsync(foreign);
        Assert.Same(foreign, card.Driver);
        Assert.Equal(new PciDeviceId(), got);
        await world.WriteAsync(card, "driver_override", "\n");
        Assert.Equal("(null)\n", world.Read(card.DevPath + "/driver_override"));
        await world.Fabric.UnbindAsync(foreign, card.Name);
        await world.Fabric.ProbeAsync(world.Bus, card.Name);
        Assert.Same(right, card.Driver);
    }

    [Fact]
    public async Task New_id_binds_at_once_and_comes_before_the_table()
    {
        var world = await PciWorld.NewAsync();
        var driver = await world.RegisterAsync("d", new PciDeviceId(0x8086, 0x1, DriverData: 5), new PciDeviceId(0x1AF4, 0x10F7, DriverData: 6));
        var (_, card) = await world.PlugAsync();
        Assert.Null(card.Driver);
        await world.Fabric.Tree.WriteAsync(Drivers + "d/new_id", "1af4 10f5");
        Assert.Same(driver, card.Driver);
        await world.Fabric.Tree.WriteAsync(Drivers + "d/remove_id", "1af4 10f5");
        // Bound stays bound; unbound is not found again.
        Assert.Same(driver, card.Driver);
        await world.Fabric.UnbindAsync(driver, card.Name);
        await Expect.RefusedAsync(Errno.ENODEV, () => world.Fabric.BindAsync(driver, card.Name));
        await world.Fabric.Tree.WriteAsync(Drivers + "d/new_id", "0x1af4 0x10f5 1af4 1100 020000 ff0000 6");
        Assert.Same(driver, card.Driver);
        Assert.Equal(["d probe 0000:01:00.0 0", "d remove 0000:01:00.0", "d probe 0000:01:00.0 6"], world.Calls);
        // A dynamic id of a broader kind serves what the table names with other data: dynamic ones are looked at first.
        await world.Fabric.Tree.WriteAsync(Drivers + "d/new_id", "8086 ffffffff");
        var other = await world.Bus.PlugAsync(new Card(new CardOptions { Vendor = 0x8086, Device = 1 }));
        Assert.Equal("d probe " + other.Name + " 0", world.Calls[^1]);
    }

    [Theory]
    [InlineData("new_id", "", Errno.EINVAL)]
    [InlineData("new_id", "1af4", Errno.EINVAL)]
    [InlineData("new_id", "1af4\n10f5", Errno.EINVAL)]
    [InlineData("new_id", "1af4\010f5", Errno.EINVAL)]
    [InlineData("new_id", "1af4 xyz", Errno.EINVAL)]
    [InlineData("new_id", "1af4 100000000", Errno.EINVAL)]
    [InlineData("new_id", "1 2 3 4 5 6 7 8", Errno.EINVAL)]
    [InlineData("new_id", "1af4 10f5", Errno.EEXIST)]
    [InlineData("new_id", "1af4 10f9 1 2 0 0 99", Errno.EINVAL)]
    [InlineData("remove_id", "1af4", Errno.EINVAL)]
    [InlineData("remove_id", "1af4 10f5", Errno.ENODEV)]
    [InlineData("remove_id", "1af4 9999", Errno.ENODEV)]
    public async Task Wrong_ids_are_refused_with_linuxs_errors(string file, string value, Errno errno)
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("d", new PciDeviceId(0x1AF4, 0x10F5, DriverData: 1));
        await Expect.RefusedAsync(errno, () => world.Fabric.Tree.WriteAsync(Drivers + "d/" + file, value));
    }

    [Fact]
    public async Task The_same_dynamic_id_twice_exists()
    {
        var world = await PciWorld.NewAsync();
        await world.RegisterAsync("d");
        await world.Fabric.Tree.WriteAsync(Drivers + "d/new_id", "1af4 10f5");
        var e = await Expect.RefusedAsync(Errno.EEXIST, () => world.Fabric.Tree.WriteAsync(Drivers + "d/new_id", "1af4 10f5"));
        Assert.Equal("new_id of d: it serves 1af4 10f5 already (pci:v00001AF4d000010F5sv*sd*bc*sc*i*).", e.Message);
    }

    [Fact]
    public async Task Events_carry_linuxs_words()
    {
        var world = await PciWorld.NewAsync();
        await world.Bus.AddPortAsync(world.Host);
        var before = world.Fabric.Uevents.Seqnum;
        await world.RegisterAsync("card", new PciDeviceId(0x1AF4, 0x10F5));
        var (_, card) = await world.PlugAsync();
        var add = world.Fabric.Uevents.History(before).Single(u => u.Action == UeventAction.Add && u.DevPath == card.DevPath);
        string[] words = ["PCI_CLASS=20000", "PCI_ID=1AF4:10F5", "PCI_SUBSYS_ID=1AF4:1100", "PCI_SLOT_NAME=0000:01:00.0", "MODALIAS=" + Alias];
        var text = world.Read(card.DevPath + "/uevent");
        Assert.Equal(new SortedSet<string>([.. words, "DRIVER=card"]), new SortedSet<string>(text.Split('\n', StringSplitOptions.RemoveEmptyEntries)));
        foreach (var word in words)
            Assert.Contains(word, add.Variables.Select(v => $"{v.Key}={v.Value}"));
        Assert.Equal(Alias + "\n", world.Read(card.DevPath + "/modalias"));
        Assert.Equal(["add card", "add 0000:01:00.0", "bind 0000:01:00.0"], world.Events(before));
        Assert.Equal("pci", add.Subsystem);
    }

    [Fact]
    public void Table_attribute_gives_the_entry_and_the_alias()
    {
        var attributes = typeof(TableDriver).GetCustomAttributes(typeof(PciDeviceTableAttribute), false).Cast<PciDeviceTableAttribute>();
        Assert.Equal(
            [
                "pci:v*d*sv*sd*bc01sc08i02",
                "pci:v00001AF4d000010F5sv*sd*bc*sc*i*",
                "vfio_pci:v00001AF4d000010F6sv*sd*bc*sc*i*",
            ],
            attributes.Select(a => a.Alias).Order(StringComparer.Ordinal));
        var driver = new TableDriver(new PciBus());
        Assert.Equal(3, driver.IdTable.Count);
        Assert.Contains(new PciDeviceId(0x1AF4, 0x10F5, DriverData: 9), driver.IdTable);
        Assert.Contains(new PciDeviceId(0x1AF4, 0x10F6, IsOverrideOnly: true), driver.IdTable);
        Assert.Contains(new PciDeviceId(Class: 0x010802, ClassMask: 0xFFFFFF), driver.IdTable);
    }

    [PciDeviceTable(0x1AF4, 0x10F5, DriverData = 9)]
    [PciDeviceTable(0x1AF4, 0x10F6, isOverrideOnly: true)]
    [PciDeviceTable(classCode: 0x010802, classMask: 0xFFFFFF)]
    private sealed class TableDriver(PciBus bus) : PciDriver(bus, "table");
}
