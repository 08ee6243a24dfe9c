using Virtbus.Remote.Pci.VfioUser;

namespace Virtbus.Tests.Cli;

/// <summary>A running fabric and manifests: the one that it is, what brings it to another, and what of it lasts. PV-01, PV-05.</summary>
public sealed class ApplyTests
{
    private const string Rich = """
        adapters:
          - { name: adapter0, model: merlin, mac: "02:00:00:00:00:10", vfs: 3, vf_profiles: [ { vf: 1, mac: "02:00:00:00:01:01", queues: 4 }, { vf: 2, driver: vfio-pci } ] }
          - { name: adapter1, model: harrier, parts: [net], ports: 2 }
        disks:
          - { name: disk0, adapter: adapter0, memory: 64MiB, queues: 2, serial: "S 1" }
          - { name: disk1, adapter: adapter0, "null": 1GiB, readonly: true }
        serials:
          - { name: serial0 }
        functions:
          - { name: probe0, simulated: scratch, driver: scratch-vfio-pci }
        devices:
          - { module: demo, name: part, count: 3, parent: adapter1 }
          - { module: demo, name: more }

        """;

    [Fact]
    public async Task Export_is_a_manifest_that_makes_the_same_fabric()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Rich);
        var manifest = await fabric.OkAsync("export");
        Assert.Equal("", await fabric.OkAsync("diff", fabric.Write("same.yaml", manifest)));
        Assert.Equal("", await fabric.OkAsync("diff", fabric.Write("rich.yaml", Rich)));
        Assert.Equal("Nothing to do.\n", await fabric.OkAsync("apply", fabric.Write("same.yaml", manifest)));
        await using var second = new TestFabric();
        await second.UpAsync(manifest);
        Assert.Equal(manifest, await second.OkAsync("export"));
        Assert.Equal(await Functions(fabric), await Functions(second));
    }

    [Fact]
    public async Task Apply_changes_what_differs_and_nothing_else()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Rich);
        using var user = VfioUserClient.Connect(Path.Combine(fabric.Runtime, "0000:01:00.3.sock"));
        var next = Rich
            .Replace("  - { name: serial0 }\n", "  - { name: serial1 }\n", StringComparison.Ordinal)
            .Replace("queues: 2, serial", "queues: 1, serial", StringComparison.Ordinal)
            .Replace("count: 3", "count: 4", StringComparison.Ordinal)
            .Replace("functions:\n", "functions:\n  - { name: probe1, simulated: scratch }\n", StringComparison.Ordinal);
        var file = fabric.Write("next.yaml", next);
        const string Changes = """
            - serial port serial0
            ~ disk disk0 on adapter0: queues 2 -> 1; made again
            + serial port serial1
            + function probe1 (simulated scratch)
            ~ 3 devices demo.part -> 4; made again

            """;
        var diff = await fabric.RunAsync("diff", file);
        Assert.Equal((1, Changes, ""), (diff.Code, diff.Output, diff.Errors));
        Assert.Equal(Changes + "5 changes done.\n", await fabric.OkAsync("apply", file));
        Assert.Equal("", await fabric.OkAsync("diff", file));
        Assert.Equal("1\n", await fabric.OkAsync("attr", "get", "/bus/vdpa/devices/disk0/max_vqs"));
        Assert.Matches("serial1 +serial +active", await fabric.OkAsync("function", "list"));
        Assert.Contains("There is no device 'serial0'", await fabric.RefusedAsync("device", "show", "serial0"), StringComparison.Ordinal);
        Assert.Contains("demo.part.3", await fabric.OkAsync("device", "list"), StringComparison.Ordinal);
        // Who has a function that is the same keeps it.
        Assert.True(user.TryRead(7, 0, new byte[4], out _));
    }

    [Fact]
    public async Task Virtual_functions_are_changed_as_one_set_and_an_adapter_with_all_that_is_on_it()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Rich);
        var file = fabric.Write("next.yaml", Rich.Replace("queues: 4 }", "queues: 5 }", StringComparison.Ordinal));
        var diff = await fabric.RunAsync("diff", file);
        Assert.Equal(
            ["~ virtual function adapter0v0", "~ virtual function adapter0v1 mac=02:00:00:00:01:01 queues=5", "~ virtual function adapter0v2 driver=vfio-pci"],
            diff.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries));
        await fabric.OkAsync("apply", file);
        Assert.Equal("5\n", await fabric.OkAsync("attr", "get", "/kernel/config/functions/adapter0v1/profile/queues"));

        // One adapter goes, the other is of the other make now.
        file = fabric.Write("next.yaml", "adapters: [ { name: adapter0, model: harrier } ]\ndisks: [ { name: disk0, adapter: adapter0, memory: 1MiB } ]\n");
        await fabric.OkAsync("apply", file);
        Assert.Equal("", await fabric.OkAsync("diff", file));
        Assert.Matches("^FUNCTION +KIND +PARENT +STATE +DEVICE\ndisk0 +disk +adapter0 +active +disk0\n$", await fabric.OkAsync("function", "list"));
        Assert.Matches("driver +harrier_core\n", await fabric.OkAsync("device", "show", "adapter0"));
        await fabric.OkAsync("apply", fabric.Write("next.yaml", "{}"));
        Assert.Equal("{}\n", await fabric.OkAsync("export"));
    }

    [Fact]
    public async Task Manifest_that_can_not_be_applied_changes_nothing()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Rich);
        var before = await fabric.OkAsync("export");
        await RefusedAsync("the folder of modules is the program's own while the fabric runs", Rich + "modules: /\n");
        await RefusedAsync("next.yaml:3:39: adapters[1]: 'colour' is no key of an adapter", Rich.Replace("parts: [net]", "colour: red", StringComparison.Ordinal));
        await fabric.OkAsync("function", "define", "lasting", "--kind", "pci", "simulated=scratch");
        await RefusedAsync("'lasting' is a function that was defined to last", "serials: [ { name: lasting } ]\n");
        Assert.Contains("does not exist", await fabric.RefusedAsync("apply", "/no/such.yaml"), StringComparison.Ordinal);
        Assert.Equal(before + "# lasting (pci) is configured, and lasts by itself\n", await fabric.OkAsync("export"));

        // A step that fails is named, and applying again goes on.
        var disk = Path.Combine(fabric.Runtime, "image");
        var next = fabric.Write("next.yaml", Rich.Replace("name: probe0, simulated: scratch,", "name: probe1, simulated: other,", StringComparison.Ordinal));
        Assert.Contains("function probe1 (simulated other): ", await fabric.RefusedAsync("apply", next, "-j"), StringComparison.Ordinal);
        Assert.False(File.Exists(disk));
        await fabric.OkAsync("apply", fabric.Write("next.yaml", Rich));
        Assert.Equal(before.Split('\n').Order(), (await fabric.OkAsync("export")).Replace("# lasting (pci) is configured, and lasts by itself\n", "", StringComparison.Ordinal).Split('\n').Order());

        async Task RefusedAsync(string message, string manifest)
        {
            var file = fabric.Write("next.yaml", manifest);
            var diff = await fabric.RunAsync("diff", file);
            Assert.Equal((2, ""), (diff.Code, diff.Output));
            Assert.Contains(message, diff.Errors, StringComparison.Ordinal);
            Assert.Contains(message, await fabric.RefusedAsync("apply", file, "-j"), StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task What_was_defined_is_there_again_after_a_kill_with_the_same_names_and_places()
    {
        await using var fabric = new TestFabric();
        var up = await fabric.StartUpAsync(Rich);
        await fabric.OkAsync("module", "load", "vdpa_sim_blk");
        await fabric.OkAsync("function", "define", "first", "--kind", "pci", "simulated=scratch");
        await fabric.OkAsync("function", "define", "second", "--kind", "pci", "simulated=scratch", "driver=scratch-vfio-pci");
        await fabric.OkAsync("function", "define", "idle", "--kind", "vf", "--parent", "adapter1", "index=0", "queues=3");
        await fabric.OkAsync("function", "define", "sim0", "--kind", "vdpa", "--parent", "vdpasim_blk", "capacity=1MiB");
        await fabric.OkAsync("function", "activate", "first", "second", "idle", "sim0");
        await fabric.OkAsync("function", "plug", "passing", "--simulated", "scratch");
        // A place stays free.
        await fabric.OkAsync("function", "deactivate", "first");
        var before = await KeptAsync();
        Assert.Contains("second", before, StringComparison.Ordinal);
        // Those who open it know its socket.
        var socket = Path.Combine(fabric.Runtime, before.Split('\n').Single(static l => l.StartsWith("second ", StringComparison.Ordinal)).Split(' ')[^1] + ".sock");
        using (VfioUserClient.Connect(socket))
        {
        }

        up.Kill();
        await up.WaitForExitAsync(TestContext.Current.CancellationToken);
        up = await fabric.StartUpAsync(Rich);
        await fabric.OkAsync("module", "load", "vdpa_sim_blk");
        await fabric.OkAsync("attr", "get", "/kernel/fabric/state");
        await UntilAsync(async () => await KeptAsync() == before);
        using (VfioUserClient.Connect(socket))
        {
        }

        Assert.DoesNotContain("passing", await fabric.OkAsync("function", "list"), StringComparison.Ordinal);

        // Undefined, it is gone for good; and a fabric that went down in order has them again too.
        await fabric.OkAsync("function", "deactivate", "sim0");
        await fabric.OkAsync("function", "undefine", "sim0");
        before = await KeptAsync();
        await fabric.OkAsync("down");
        await fabric.StartUpAsync(Rich);
        await UntilAsync(async () => await KeptAsync() == before);

        async Task<string> KeptAsync() =>
            string.Join('\n', (await fabric.OkAsync("function", "list")).Split('\n').Where(static l => l.Split(' ')[0] is "first" or "second" or "idle" or "sim0").Select(static l => string.Join(' ', l.Split(' ', StringSplitOptions.RemoveEmptyEntries))));
    }

    [Fact]
    public async Task Medium_of_a_disk_that_is_gone_serves_no_other_definition()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("adapters: [ { name: adapter0, model: merlin } ]\n");
        var (one, two) = (fabric.Write("one", new string('1', 4096)), fabric.Write("two", new string('2', 8192)));
        await fabric.OkAsync("function", "define", "d0", "--kind", "disk", "--parent", "adapter0", "file=" + one);
        await fabric.OkAsync("function", "activate", "d0");
        await fabric.OkAsync("driver", "unbind", "merlin_core.vdpa.0");
        Assert.Matches("d0 +disk +adapter0 +gone", await fabric.OkAsync("function", "list"));
        await fabric.OkAsync("function", "set", "d0", "file=" + two, "readonly=true");
        await fabric.OkAsync("driver", "bind", "merlin_core.vdpa.0", "nic_vdpa");
        await UntilAsync(async () => (await fabric.OkAsync("function", "list")).Contains("active", StringComparison.Ordinal));
        // The file of the first is free again, and that of the second is the disk's.
        await fabric.OkAsync("function", "define", "d1", "--kind", "disk", "--parent", "adapter0", "file=" + one);
        await fabric.OkAsync("function", "activate", "d1");
        Assert.Contains("readonly=true", await fabric.OkAsync("function", "show", "d0"), StringComparison.Ordinal);
        await fabric.OkAsync("driver", "unbind", "merlin_core.vdpa.0");
        await fabric.OkAsync("function", "deactivate", "d0", "d1");
        await fabric.OkAsync("function", "undefine", "d0", "d1");
        await fabric.OkAsync("driver", "bind", "merlin_core.vdpa.0", "nic_vdpa");
        foreach (var name in (string[])["d2", "d3"])
            await fabric.OkAsync("function", "define", name, "--kind", "disk", "--parent", "adapter0", "--transient", "file=" + (name == "d2" ? one : two));
        await fabric.OkAsync("function", "activate", "d2", "d3");
        // What a manifest says in more words is the same.
        Assert.Equal("", await fabric.OkAsync("diff", fabric.Write("m.yaml", await fabric.OkAsync("export"))));
        await fabric.RefusedAsync("function", "undefine", "d2", "d3");
    }

    [Fact]
    public async Task Virtual_functions_that_last_come_back_with_those_of_the_manifest_and_of_a_number()
    {
        const string Manifest = "adapters: [ { name: adapter0, model: merlin, vfs: 2, vf_profiles: [ { vf: 0, queues: 3 } ] }, { name: adapter1, model: harrier, parts: [net] } ]\n";
        await using var fabric = new TestFabric();
        var up = await fabric.StartUpAsync(Manifest);
        await fabric.OkAsync("vf", "disable", "adapter0");
        await fabric.OkAsync("function", "define", "web3", "--kind", "vf", "--parent", "adapter0", "index=3", "queues=5");
        await fabric.OkAsync("function", "define", "lone", "--kind", "vf", "--parent", "adapter1", "index=1", "driver=vfio-pci");
        await fabric.OkAsync("vf", "enable", "adapter0", "4");
        await fabric.OkAsync("module", "load", "vfio_pci");
        await fabric.OkAsync("vf", "enable", "adapter1", "2");
        var before = await SortedAsync();
        var manifest = await fabric.OkAsync("export");
        Assert.Contains("vfs: 4, vf_profiles: [ { vf: 0, queues: 3 } ] }", manifest, StringComparison.Ordinal);
        Assert.Contains("# web3 (vf) is active, and lasts by itself\n", manifest, StringComparison.Ordinal);
        Assert.Equal("", await fabric.OkAsync("diff", fabric.Write("same.yaml", manifest)));

        // By the manifest that does not count them.
        up.Kill();
        await up.WaitForExitAsync(TestContext.Current.CancellationToken);
        up = await fabric.StartUpAsync(Manifest);
        await UntilAsync(async () => await SortedAsync() == before);
        Assert.Matches("web3 +vf +adapter0 +active +0000:01:00.4\n", await fabric.OkAsync("function", "list"));
        Assert.Equal("5\n", await fabric.OkAsync("attr", "get", "/kernel/config/functions/web3/profile/queues"));
        Assert.Equal("", await fabric.OkAsync("diff", fabric.Write("same.yaml", manifest)));

        // And by the one that does.
        up.Kill();
        await up.WaitForExitAsync(TestContext.Current.CancellationToken);
        await fabric.StartUpAsync(manifest);
        await UntilAsync(async () => await SortedAsync() == before);
        Assert.Equal(manifest.Split('\n').Order(), (await fabric.OkAsync("export")).Split('\n').Order());

        async Task<string> SortedAsync() => string.Join('\n', (await fabric.OkAsync("function", "list")).Split('\n').Order(StringComparer.Ordinal));
    }

    [Fact]
    public async Task Export_has_the_names_and_the_number_of_virtual_functions_that_a_person_made()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("adapters: [ { name: adapter0, model: merlin } ]\n");
        await fabric.OkAsync("function", "define", "kept", "--kind", "vf", "--parent", "adapter0", "index=0", "queues=2");
        await fabric.OkAsync("function", "define", "passing", "--kind", "vf", "--parent", "adapter0", "--transient", "index=1");
        await fabric.OkAsync("function", "define", "said", "--kind", "vf", "--parent", "adapter0", "--transient", "index=2", "mac=02:00:00:00:00:77");
        await fabric.OkAsync("function", "activate", "said", "kept", "passing");
        var manifest = await fabric.OkAsync("export");
        Assert.Contains("vfs: 3, vf_profiles: [ { vf: 1, name: passing }, { vf: 2, name: said, mac: \"02:00:00:00:00:77\" } ]", manifest, StringComparison.Ordinal);
        Assert.Equal("Nothing to do.\n", await fabric.OkAsync("apply", fabric.Write("same.yaml", manifest)));
        var before = await Functions(fabric);
        await fabric.OkAsync("down");
        await fabric.UpAsync(manifest);
        Assert.Equal(before.Split('\n').Order(), (await Functions(fabric)).Split('\n').Order());
        Assert.Equal("", await fabric.OkAsync("diff", fabric.Write("same.yaml", manifest)));
        // Where nothing is kept it is one of the manifest's like the others.
        await using var second = new TestFabric();
        await second.UpAsync(manifest);
        Assert.Matches("adapter0v0 +vf +adapter0 +active +0000:01:00.1\npassing +vf", await Functions(second));

        // One that lasts and was taken away is one that is missing.
        await fabric.OkAsync("vf", "disable", "adapter0");
        var diff = await fabric.RunAsync("diff", fabric.Write("same.yaml", manifest));
        Assert.Contains("+ virtual function kept, which was defined to last\n", diff.Output, StringComparison.Ordinal);
        await fabric.OkAsync("apply", fabric.Write("same.yaml", manifest));
        Assert.Equal(before.Split('\n').Order(), (await Functions(fabric)).Split('\n').Order());
    }

    [Fact]
    public async Task Names_and_numbers_that_last_are_looked_at_before_anything_is_made()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("adapters: [ { name: adapter0, model: merlin } ]\n");
        await fabric.OkAsync("function", "define", "adapter1", "--kind", "pci", "simulated=scratch");
        await fabric.OkAsync("function", "define", "web0", "--kind", "vf", "--parent", "adapter0", "index=0");
        await fabric.OkAsync("function", "define", "demo.part.2", "--kind", "pci", "simulated=scratch");
        await fabric.OkAsync("module", "load", "vdpa_sim_blk");
        await fabric.OkAsync("function", "define", "sim0", "--kind", "vdpa", "--parent", "vdpasim_blk", "--transient", "capacity=1MiB");
        const string Bad = """
            adapters:
              - { name: adapter0, model: merlin, vfs: 1, vf_profiles: [ { vf: 0, queues: 2 } ] }
              - { name: adapter1, model: merlin }
            serials:
              - { name: sim0 }
            devices:
              - { module: demo, name: part, count: 3 }

            """;
        string[] told =
        [
            ":2:67: adapters[0].vf_profiles[0].vf: this virtual function of adapter0 is 'web0', which was defined to last",
            ":3:13: adapters[1].name: 'adapter1' is a function that was defined to last over the end of the program.",
            ":7:27: devices[0].name: 'demo.part.2' is a function that was defined to last",
        ];
        var before = await fabric.OkAsync("export");
        foreach (var verb in (string[])["diff", "apply"])
        {
            var refused = await fabric.RefusedAsync(verb, fabric.Write("bad.yaml", Bad));
            Assert.All(told, t => Assert.Contains(t, refused, StringComparison.Ordinal));
            Assert.Contains(":5:13: serials[0].name: 'sim0' is a function that was defined by somebody.", refused, StringComparison.Ordinal);
        }

        Assert.Equal(before, await fabric.OkAsync("export"));
        await fabric.OkAsync("down");
        var up = await fabric.RunAsync("up", fabric.Write("bad.yaml", Bad));
        Assert.Equal(1, up.Code);
        Assert.All(told, t => Assert.Contains(t, up.Errors, StringComparison.Ordinal));
        Assert.Contains($"While no fabric runs, remove {Path.Combine(fabric.Runtime, "state", "adapter1.json")}.", up.Errors, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Serial_port_that_lasts_is_there_again_after_an_orderly_end()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("{}");
        await fabric.OkAsync("function", "define", "s1", "--kind", "serial");
        await fabric.OkAsync("function", "activate", "s1");
        await fabric.OkAsync("down");
        await fabric.UpAsync("{}");
        await UntilAsync(async () => (await fabric.OkAsync("function", "list")).Contains("active", StringComparison.Ordinal));
        Assert.Matches("s1 +serial +active", await fabric.OkAsync("function", "list"));
        await fabric.OkAsync("down");
        var refused = await fabric.RunAsync("up", fabric.Write("m.yaml", "serials: [ { name: s1 } ]\n"));
        Assert.Contains($"to last over the end of the program. Choose another name, or undefine that one. While no fabric runs, remove {Path.Combine(fabric.Runtime, "state", "s1.json")}", refused.Errors, StringComparison.Ordinal);
    }

    private static async Task UntilAsync(Func<Task<bool>> holds)
    {
        for (var since = Environment.TickCount64; !await holds();)
            Assert.True(Environment.TickCount64 - since < TestFabric.Deadline.TotalMilliseconds, "it did not come back");
    }

    private static async Task<string> Functions(TestFabric fabric) => await fabric.OkAsync("function", "list");
}
