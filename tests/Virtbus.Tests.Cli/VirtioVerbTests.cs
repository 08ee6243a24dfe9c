using Virtbus.Daemon.Manifest;

namespace Virtbus.Tests.Cli;

/// <summary>Virtio functions in manifests and verbs.</summary>
public sealed class VirtioVerbTests
{
    private const string Manifest = """
        functions:
          - { name: disk0, virtio: blk, memory: 4MiB, queues: 2, serial: S-1 }
          - { name: old0, virtio: blk, "null": 8MiB, transitional: true, vectors: 0 }
          - { name: rng0, virtio: rng }
          - { name: talk0, virtio: console, driver: vfio-pci }

        """;

    [Fact]
    public async Task Functions_of_a_manifest_are_offered_and_written_as_a_manifest_again()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        var sockets = await fabric.OkAsync("socket", "list");
        foreach (var name in (string[])["disk0", "old0", "rng0", "talk0"])
            Assert.Matches($"{name} \\([0-9a-f:.]+\\) +vfio-user", sockets);
        Assert.Matches("talk0 \\([0-9a-f:.]+\\) +console", sockets);
        var disk = await fabric.OkAsync("function", "show", "disk0");
        Assert.Contains("virtio=blk\n", disk, StringComparison.Ordinal);
        Assert.Contains("queues=2\n", disk, StringComparison.Ordinal);
        Assert.Contains("transitional=false (not set)\n", disk, StringComparison.Ordinal);
        Assert.Equal("0x1042\n", await fabric.OkAsync("attr", "get", "/bus/pci/devices/" + await AddressOfAsync(fabric, "disk0") + "/device"));
        Assert.Equal("0x1001\n", await fabric.OkAsync("attr", "get", "/bus/pci/devices/" + await AddressOfAsync(fabric, "old0") + "/device"));
        var export = await fabric.OkAsync("export");
        Assert.Contains("  - { name: disk0, virtio: blk, memory: 4MiB, queues: 2, serial: S-1 }\n", export, StringComparison.Ordinal);
        Assert.Contains("name: old0, virtio: blk, \"null\": 8MiB", export, StringComparison.Ordinal);
        var path = fabric.Write("again.yaml", export);
        // What it says is what there is.
        Assert.Equal("", await fabric.OkAsync("diff", path));
    }

    [Fact]
    public async Task Functions_are_plugged_in_and_out_while_the_fabric_runs()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("{}\n");
        Assert.Contains(": bound to vfio-pci\n", await fabric.OkAsync("function", "plug", "rng0", "--virtio", "rng"), StringComparison.Ordinal);
        Assert.Contains(": bound to vfio-pci\n", await fabric.OkAsync("function", "plug", "disk0", "--virtio", "blk", "memory=1MiB", "queues=3", "transitional=true"), StringComparison.Ordinal);
        Assert.Contains("one of file, memory, null", await fabric.RefusedAsync("function", "plug", "disk1", "--virtio", "blk"), StringComparison.Ordinal);
        Assert.Contains("one of: blk, net, console, rng", await fabric.RefusedAsync("function", "plug", "disk1", "--virtio", "floppy"), StringComparison.Ordinal);
        Assert.Contains("only a disk has 'memory'", await fabric.RefusedAsync("function", "plug", "rng1", "--virtio", "rng", "memory=1MiB"), StringComparison.Ordinal);
        Assert.Contains("not 4 more addresses", await fabric.RefusedAsync("function", "plug", "nic1", "--virtio", "net", "mac=02:ff:ff:ff:ff:fe", "vfs=4"), StringComparison.Ordinal);
        Assert.Contains(": bound to vfio-pci\n", await fabric.OkAsync("function", "plug", "nic0", "--virtio", "net", "mtu=9000", "vlan=7"), StringComparison.Ordinal);
        var address = After(await fabric.OkAsync("function", "show", "nic0"), "mac=")[..17];
        Assert.Contains($"the address {address} on switch 'switch0' is that of 'nic0' already", await fabric.RefusedAsync("function", "plug", "nic1", "--virtio", "net", "mac=" + address), StringComparison.Ordinal);
        Assert.Contains(": bound to vfio-pci\n", await fabric.OkAsync("function", "plug", "nic1", "--virtio", "net", "mac=" + address, "switch=other"), StringComparison.Ordinal);
        await fabric.OkAsync("function", "unplug", "nic1");
        Assert.Contains("has no virtual functions, which are modern all", await fabric.RefusedAsync("function", "plug", "nic1", "--virtio", "net", "vfs=1", "transitional=true"), StringComparison.Ordinal);
        Assert.Contains("the driver vfio-pci enables no virtual functions", await fabric.RefusedAsync("function", "plug", "nic1", "--virtio", "net", "vfs=1", "--driver", "vfio-pci"), StringComparison.Ordinal);
        // One that is among those of virtual functions.
        await fabric.OkAsync("function", "plug", "nic1", "--virtio", "net", "mac=02:00:00:00:01:00", "vfs=4");
        Assert.Contains("the address 02:00:00:00:01:04", await fabric.RefusedAsync("function", "plug", "nic2", "--virtio", "net", "mac=02:00:00:00:01:04"), StringComparison.Ordinal);
        await fabric.OkAsync("function", "plug", "nic2", "--virtio", "net", "mac=02:00:00:00:01:05");
        await fabric.OkAsync("function", "unplug", "nic2");
        await fabric.OkAsync("function", "unplug", "nic1");
        Assert.Contains("switch=switch0 (not set)\n", await fabric.OkAsync("function", "show", "nic0"), StringComparison.Ordinal);
        Assert.EndsWith(": unplugged\n", await fabric.OkAsync("function", "unplug", "nic0"), StringComparison.Ordinal);
        Assert.DoesNotContain("rng1", await fabric.OkAsync("function", "list"), StringComparison.Ordinal);
        Assert.EndsWith(": unplugged\n", await fabric.OkAsync("function", "unplug", "disk0"), StringComparison.Ordinal);
        Assert.EndsWith(": unplugged\n", await fabric.OkAsync("function", "unplug", "rng0"), StringComparison.Ordinal);
        Assert.DoesNotContain("virtio", await fabric.OkAsync("function", "list"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Function_of_a_manifest_has_its_virtual_functions_and_they_go_and_come_with_it()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("functions:\n  - { name: dice, virtio: rng, vfs: 2 }\n");
        var functions = await fabric.OkAsync("function", "list");
        Assert.Matches("dice +virtio +active", functions);
        Assert.Matches("dicev0 +vf +dice +active", functions);
        Assert.Matches("dicev1 +vf +dice +active", functions);
        var physical = "/bus/pci/devices/" + await AddressOfAsync(fabric, "dice");
        Assert.Equal("2\n", await fabric.OkAsync("attr", "get", physical + "/sriov_numvfs"));
        Assert.Equal("2\n", await fabric.OkAsync("attr", "get", physical + "/sriov_totalvfs"));
        Assert.Contains("pci-pf-stub", await fabric.OkAsync("device", "show", "dice"), StringComparison.Ordinal);
        var sockets = await fabric.OkAsync("socket", "list");
        Assert.DoesNotMatch("dice \\(", sockets);
        Assert.Matches("dicev0 \\([0-9a-f:.]+\\) +vfio-user", sockets);
        Assert.Equal("0x1044\n", await fabric.OkAsync("attr", "get", "/bus/pci/devices/" + await AddressOfAsync(fabric, "dicev1") + "/device"));
        Assert.Equal("", await fabric.OkAsync("diff", fabric.Write("same.yaml", await fabric.OkAsync("export"))));
        Assert.Contains("go together, and dicev0 would stay", await fabric.RefusedAsync("function", "deactivate", "dicev1"), StringComparison.OrdinalIgnoreCase);
        Assert.Equal(
            "~ function dice (virtio rng): vfs 2 -> 3; made again\n~ virtual function dicev0 driver=vfio-pci\n~ virtual function dicev1 driver=vfio-pci\n+ virtual function dicev2 driver=vfio-pci\n4 changes done.\n",
            await fabric.OkAsync("apply", fabric.Write("three.yaml", "functions:\n  - { name: dice, virtio: rng, vfs: 3 }\n")));
        Assert.Matches("dicev2 +vf +dice +active", await fabric.OkAsync("function", "list"));
        Assert.Equal(
            "- virtual function dicev2\n- virtual function dicev1\n- virtual function dicev0\n- function dice\n4 changes done.\n",
            await fabric.OkAsync("apply", fabric.Write("none.yaml", "{}\n")));
        Assert.DoesNotContain("dice", await fabric.OkAsync("function", "list"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Virtual_functions_are_enabled_by_their_number_while_the_fabric_runs()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("{}\n");
        Assert.Contains(": bound to pci-pf-stub\n", await fabric.OkAsync("function", "plug", "dice", "--virtio", "rng", "vfs=4"), StringComparison.Ordinal);
        await fabric.OkAsync("vf", "enable", "dice", "2");
        Assert.Matches("dicev1 +vf +dice +active", await fabric.OkAsync("function", "list"));
        await fabric.OkAsync("vf", "disable", "dice");
        Assert.DoesNotContain("dicev1", await fabric.OkAsync("function", "list"), StringComparison.Ordinal);
        await fabric.OkAsync("vf", "enable", "dice", "4");
        Assert.EndsWith(": unplugged\n", await fabric.OkAsync("function", "unplug", "dice"), StringComparison.Ordinal);
        Assert.DoesNotContain("dice", await fabric.OkAsync("function", "list"), StringComparison.Ordinal);
        Assert.Contains("only a disk or a network device or an entropy source has 'vfs'", await fabric.RefusedAsync("function", "plug", "talk0", "--virtio", "console", "vfs=1"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Virtual_functions_of_a_disk_are_each_a_disk_where_the_physical_one_is()
    {
        await using var fabric = new TestFabric();
        foreach (var (file, size) in new[] { ("all.img", 1 << 20), ("vm-0.img", 2 << 20), ("vm-1.img", 3 << 20) })
            fabric.Write(file, new string('\0', size));
        await fabric.UpAsync("""
            functions:
              - { name: disk, virtio: blk, file: all.img, vfs: 2, vf_file: vm-%.img, driver: virtio-pci }
              - { name: ram, virtio: blk, memory: 1MiB, queues: 2, vfs: 1 }
            """);
        Assert.Equal("0x1042\n", await fabric.OkAsync("attr", "get", $"/bus/pci/devices/{await AddressOfAsync(fabric, "diskv1")}/device"));
        var sockets = await fabric.OkAsync("socket", "list");
        Assert.Matches("diskv1 \\([0-9a-f:.]+\\) +vfio-user", sockets);
        Assert.Matches("ramv0 \\([0-9a-f:.]+\\) +vfio-user", sockets);
        Assert.EndsWith("bound to virtio-vfio-pci\n", await fabric.OkAsync("driver", "override", "diskv0", "virtio-vfio-pci"), StringComparison.Ordinal);
        Assert.Equal("virtio-vfio-pci-lm\n", await fabric.OkAsync("attr", "get", $"/bus/pci/devices/{await AddressOfAsync(fabric, "diskv0")}/virtio_vfio_ops"));
        Assert.Equal("", await fabric.OkAsync("diff", fabric.Write("same.yaml", await fabric.OkAsync("export"))));
        // Whether they are enabled or not, they are this fabric's.
        await fabric.OkAsync("vf", "disable", "disk");
        var folder = Path.GetDirectoryName(fabric.Write("any", ""))!;
        var second = $"file={folder}/any";
        Assert.Contains("vm-1.img' is in use by another disk", await fabric.RefusedAsync("function", "plug", "d", "--virtio", "blk", $"file={folder}/vm-1.img"), StringComparison.Ordinal);
        Assert.Contains("needs one too. Set vf_file, a path with one %", await fabric.RefusedAsync("function", "plug", "d", "--virtio", "blk", second, "vfs=1"), StringComparison.Ordinal);
        Assert.Contains("it is in no file. Take 'vf_file' away", await fabric.RefusedAsync("function", "plug", "d", "--virtio", "blk", "memory=1MiB", "vfs=1", "vf_file=/a%"), StringComparison.Ordinal);
        Assert.Contains("Take 'vf_file' away, or set vfs", await fabric.RefusedAsync("function", "plug", "d", "--virtio", "blk", second, "vf_file=/a%"), StringComparison.Ordinal);
        Assert.Contains("with one % that stands for its number", await fabric.RefusedAsync("function", "plug", "d", "--virtio", "blk", second, "vfs=1", "vf_file=/a%%"), StringComparison.Ordinal);
        await fabric.OkAsync("function", "unplug", "disk");
        Assert.Contains("bound to vfio-pci", await fabric.OkAsync("function", "plug", "d", "--virtio", "blk", $"file={folder}/vm-1.img"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Files_of_virtual_functions_are_looked_at_before_anything_is_made()
    {
        await using var fabric = new TestFabric();
        var manifest = fabric.Write("t.yaml", "");
        foreach (var name in (string[])["a.img", "b.img", "c-0.img", "c-1.img"])
            fabric.Write(name, new string('\0', 512));
        var error = Assert.Throws<ManifestException>(() => ManifestReader.ReadText(
            """
            functions:
              - { name: a, virtio: blk, file: a.img, vfs: 2, vf_file: c-.img }
              - { name: b, virtio: blk, file: b.img, vfs: 2 }
              - { name: c, virtio: blk, memory: 1MiB, vfs: 2, vf_file: c-%.img }
              - { name: d, virtio: blk, file: c-0.img, vf_file: d-%.img }
              - { name: e, virtio: rng, vf_file: c-%.img }
            """,
            manifest));
        string[] expected =
        [
            "2:59: functions[0].vf_file: ",
            "c-.img has not one % in it",
            "3:24: functions[1].virtio: a disk in a file whose function has virtual ones needs a file for each of these. Add 'vf_file'",
            "functions[2].vf_file: the disks of virtual functions are where that of the physical one is, and it is in no file",
            "functions[3].vf_file: there are no virtual functions that have disks",
            "functions[4].vf_file: only a disk has 'vf_file', and this is a virtio rng",
        ];
        foreach (var line in expected)
            Assert.Contains(line, error.Message, StringComparison.Ordinal);
        error = Assert.Throws<ManifestException>(() => ManifestReader.ReadText(
            """
            functions:
              - { name: a, virtio: blk, file: a.img, vfs: 3, vf_file: c-%.img }
              - { name: b, virtio: blk, file: c-1.img }
            """,
            manifest));
        Assert.Contains("c-2.img' does not exist. Make it, for example with: truncate", error.Message, StringComparison.Ordinal);
        Assert.Contains("functions[0].vf_file: ", error.Message, StringComparison.Ordinal);
        Assert.Contains("c-1.img is the file of disk 'b' at line 3 already", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Console_of_a_function_has_its_socket()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("{}\n");
        await fabric.OkAsync("function", "plug", "talk0", "--virtio", "console");
        Assert.True(File.Exists(Path.Combine(fabric.Runtime, "talk0.console.sock")));
        await fabric.OkAsync("function", "unplug", "talk0");
        Assert.False(File.Exists(Path.Combine(fabric.Runtime, "talk0.console.sock")));
    }

    [Fact]
    public async Task Link_of_a_network_function_and_what_its_switch_counts_are_in_the_tree_of_the_daemon()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("""
            adapters:
              - { name: left, model: merlin, switch: lan }
            functions:
              - { name: nic0, virtio: net, switch: lan, speed: 10000, mtu: 68 }

            """);
        var path = "/bus/pci/devices/" + await AddressOfAsync(fabric, "nic0");
        Assert.Equal("10000\n", await fabric.OkAsync("attr", "get", path + "/speed"));
        Assert.Contains("speed: 10000", await fabric.OkAsync("export"), StringComparison.Ordinal);
        await fabric.OkAsync("attr", "set", path + "/carrier", "0");
        Assert.Equal("0\n", await fabric.OkAsync("attr", "get", path + "/carrier"));
        await fabric.OkAsync("attr", "set", path + "/carrier", "1");
        Assert.Equal("1\n", await fabric.OkAsync("attr", "get", path + "/carrier"));
        Assert.Contains("no driver is there that announces itself", await fabric.RefusedAsync("attr", "set", path + "/announce", "1"), StringComparison.Ordinal);
        Assert.Equal("left/\nnic0/\n", await fabric.OkAsync("attr", "get", "/kernel/switches/lan/ports"));
        foreach (var port in (string[])["left", "nic0"])
        {
            foreach (var counter in (string[])["dropped", "filtered", "malformed"])
                Assert.Equal("0\n", await fabric.OkAsync("attr", "get", $"/kernel/switches/lan/ports/{port}/{counter}"));
        }
    }

    [Fact]
    public async Task Switches_of_a_manifest_are_compared_exported_and_joined_by_adapters()
    {
        const string Text = """
            adapters:
              - { name: left, model: merlin, switch: lan, vfs: 1 }
            switches:
              - { name: lan }
            functions:
              - { name: nic0, virtio: net, switch: lan }

            """;
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Text);
        var export = await fabric.OkAsync("export");
        Assert.Contains("switches:\n  - { name: lan }\n", export, StringComparison.Ordinal);
        Assert.Contains("switch: lan", export, StringComparison.Ordinal);
        Assert.Equal("", await fabric.OkAsync("diff", fabric.Write("same.yaml", export)));
        var more = fabric.Write("more.yaml", Text.Replace("  - { name: lan }", "  - { name: lan }\n  - { name: spare }", StringComparison.Ordinal));
        Assert.Equal("+ switch spare: no tap\n1 change done.\n", await fabric.OkAsync("apply", more));
        Assert.Contains("  - { name: spare }\n", await fabric.OkAsync("export"), StringComparison.Ordinal);
        Assert.Equal("- switch spare: no tap\n1 change done.\n", await fabric.OkAsync("apply", fabric.Write("less.yaml", Text)));
        Assert.Equal("", await fabric.OkAsync("diff", fabric.Write("less.yaml", Text)));
        await fabric.OkAsync("down");
    }

    [Fact]
    public void What_is_wrong_with_a_switch_is_told_at_its_key()
    {
        var error = Assert.Throws<ManifestException>(() => ManifestReader.ReadText(
            """
            adapters:
              - { name: a, model: merlin, tap: tap0 }
            switches:
              - { name: lan, tap: tap0 }
              - { name: lan }
              - { name: c, queues: 2 }
              - { name: d, vlan: 7 }
              - { name: e, tap: tap1, queues: 257 }
            """,
            "t.yaml"));
        string[] expected =
        [
            "adapters[0].tap: the TAP device 'tap0' is that of line 4 already",
            "switches[1].name: 'lan' is the name of the switch at line 4 already",
            "switches[2].queues: only a TAP device has 'queues', and this switch has none",
            "switches[3].vlan: only a TAP device has 'vlan'",
            "switches[4].queues",
        ];
        foreach (var line in expected)
            Assert.Contains(line, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Help_names_the_types_that_there_are()
    {
        await using var fabric = new TestFabric();
        Assert.Contains("A virtio device: blk, net, console or rng.", await fabric.OkAsync("function", "plug", "--help"), StringComparison.Ordinal);
    }

    [Fact]
    public void What_is_wrong_with_one_is_told_at_its_key()
    {
        var error = Assert.Throws<ManifestException>(() => ManifestReader.ReadText(
            """
            functions:
              - { name: a, virtio: blk }
              - { name: b, virtio: blk, memory: 1MiB, "null": 1MiB }
              - { name: c, virtio: rng, memory: 1MiB }
              - { name: d, simulated: scratch, transitional: true }
              - { name: e, virtio: blk, memory: 1MiB, direct: true }
              - { name: f, virtio: disk }
              - { name: g, virtio: rng, vectors: 2049 }
              - { name: h, virtio: console, vfs: 1 }
              - { name: i, virtio: blk, memory: 1MiB, mtu: 1500 }
              - { name: j, virtio: net, vlan: 4095 }
              - { name: k, virtio: rng, queues: 2 }
              - { name: l, virtio: rng, vfs: 2, transitional: true }
              - { name: m, virtio: net, mtu: 67 }
              - { name: n, virtio: net, speed: 0 }
            """,
            "t.yaml"));
        string[] expected =
        [
            "t.yaml:2:24: functions[0].virtio: a disk has exactly one of file, memory, null; this has none",
            "t.yaml:3:24: functions[1].virtio: a disk has exactly one of file, memory, null; this has memory, null",
            "functions[2].memory: only a disk has 'memory', and this is a virtio rng",
            "functions[3].transitional: only a virtio device has 'transitional'",
            "functions[4].direct: only a file has a page cache",
            "functions[5].virtio",
            "functions[6].vectors",
            "functions[7].vfs: no such device has virtual functions",
            "functions[8].mtu: only a network device has 'mtu', and this is a virtio blk",
            "functions[9].vlan",
            "functions[12].mtu",
            "functions[13].speed",
            "functions[11].transitional: a transitional function has no virtual functions",
            "functions[10].queues: only a disk or a network device has 'queues', and this is a virtio rng",
        ];
        foreach (var line in expected)
            Assert.Contains(line, error.Message, StringComparison.Ordinal);
    }

    private static async Task<string> AddressOfAsync(TestFabric fabric, string name)
    {
        var shown = await fabric.OkAsync("function", "show", name);
        return shown[(shown.IndexOf(" as ", StringComparison.Ordinal) + 4)..].Split('\n')[0];
    }

    private static string After(string text, string mark) => text[(text.IndexOf(mark, StringComparison.Ordinal) + mark.Length)..];
}
