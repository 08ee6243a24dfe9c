using System.Text.Json;
using Virtbus.Daemon.Manifest;
using Virtbus.Daemon.Provisioning;

namespace Virtbus.Tests.Cli;

/// <summary>Interfaces by verb and by manifest: what they are joined to, and what is said of joins that can't be.</summary>
public sealed class InterfaceVerbTests
{
    private const string Functions = """
        functions:
          - { name: nic0, virtio: net, switch: lan, mac: "02:00:00:00:00:10", driver: virtio-pci }
          - { name: nic1, virtio: net, switch: wan, mac: "02:00:00:00:00:11", driver: virtio-pci }

        """;

    [Fact]
    public async Task Interface_is_joined_and_taken_off_by_verb_and_goes_into_the_export()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Functions);
        Assert.Equal(
            """
            NAME     STATE  ADDRESS            DRIVER      JOIN
            nic0np0  up     02:00:00:00:00:10  virtio_net
            nic1np0  up     02:00:00:00:00:11  virtio_net

            """,
            Trimmed(await fabric.OkAsync("interface", "list")));
        Assert.Equal("", await fabric.OkAsync("interface", "join", "nic0np0", "--switch", "wan", "--vlan", "7"));
        Assert.Contains("nic0np0  up     02:00:00:00:00:10  virtio_net  switch=wan vlan=7  joined", await fabric.OkAsync("interface", "list"), StringComparison.Ordinal);
        Assert.Equal("0x1103\n", await fabric.OkAsync("attr", "get", "/class/net/nic0np0/flags"));
        Assert.Equal("0\n", await fabric.OkAsync("attr", "get", "/kernel/switches/wan/ports/nic0np0/dropped"));
        Assert.Contains("go round for ever", await fabric.RefusedAsync("interface", "join", "nic1np0", "--switch", "lan"), StringComparison.Ordinal);
        Assert.Contains("Take it off first", await fabric.RefusedAsync("interface", "join", "nic0np0", "--switch", "far"), StringComparison.Ordinal);
        Assert.Contains("Did you mean 'nic0np0'", await fabric.RefusedAsync("interface", "join", "nic0np", "--switch", "far"), StringComparison.Ordinal);
        Assert.Contains("vlan=5000 is out of range", await fabric.RefusedAsync("interface", "join", "nic1np0", "--switch", "far", "--vlan", "5000"), StringComparison.Ordinal);
        Assert.Equal(2, (await fabric.RunAsync("interface", "join", "nic1np0")).Code);
        Assert.Equal(2, (await fabric.RunAsync("interface", "join", "nic1np0", "--switch", "far", "--queues", "2")).Code);
        var export = await fabric.OkAsync("export");
        Assert.Contains("joins:\n  - { interface: nic0np0, switch: wan, vlan: 7 }\n", export, StringComparison.Ordinal);
        Assert.Equal("", await fabric.OkAsync("diff", fabric.Write("same.yaml", export)));
        using var answer = JsonDocument.Parse(await fabric.OkAsync("-j", "interface", "leave", "nic0np0"));
        Assert.Equal(("nic0np0", "up", JsonValueKind.Undefined), (answer.RootElement.GetProperty("name").GetString(), answer.RootElement.GetProperty("state").GetString(), answer.RootElement.TryGetProperty("join", out var join) ? join.ValueKind : default));
        Assert.Contains("is joined to nothing", await fabric.RefusedAsync("interface", "leave", "nic0np0"), StringComparison.Ordinal);
        Assert.DoesNotContain("joins:", await fabric.OkAsync("export"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Join_of_a_manifest_is_made_changed_and_taken_away_by_apply()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Functions + "joins: [{ interface: nic0np0, switch: wan }, { interface: nic7np0, switch: wan }]\n");
        Assert.Equal("nic0np0 switch=wan joined\nnic7np0 switch=wan waiting\n", await fabric.OkAsync("attr", "get", "/kernel/joins/list"));
        await fabric.OkAsync("driver", "unbind", "virtio0");
        Assert.Contains("nic0np0  absent", await fabric.OkAsync("interface", "list"), StringComparison.Ordinal);
        await fabric.OkAsync("driver", "bind", "virtio0", "virtio_net");
        Assert.Equal("nic0np0 switch=wan joined\nnic7np0 switch=wan waiting\n", await fabric.OkAsync("attr", "get", "/kernel/joins/list"));
        var changed = fabric.Write("changed.yaml", Functions + "joins: [{ interface: nic0np0, switch: far }]\n");
        var diff = await fabric.RunAsync("diff", changed);
        Assert.Equal("~ join of nic0np0: switch wan -> switch far\n- join of nic7np0: switch wan\n", diff.Output);
        await fabric.OkAsync("apply", changed);
        Assert.Equal("nic0np0 switch=far joined\n", await fabric.OkAsync("attr", "get", "/kernel/joins/list"));
        Assert.Equal("", await fabric.OkAsync("diff", changed));
        await fabric.OkAsync("apply", fabric.Write("none.yaml", Functions));
        Assert.Equal("", await fabric.OkAsync("attr", "get", "/kernel/joins/list"));
        await fabric.OkAsync("down");
    }

    [Fact]
    public async Task Manifest_whose_join_goes_round_is_refused_with_its_place()
    {
        await using var fabric = new TestFabric();
        var refused = await fabric.RunAsync("up", fabric.Write("round.yaml", Functions + "joins:\n  - { interface: nic0np0, switch: wan }\n  - { interface: nic1np0, switch: lan }\n"), "--detach");
        Assert.Equal(1, refused.Code);
        Assert.Matches("round\\.yaml:6:[0-9]+: joins\\[1\\]\\.interface: .* go round for ever", refused.Errors);
    }

    [Theory]
    [InlineData("{ switch: lan }", "1:9", "a join has no 'interface'")]
    [InlineData("{ interface: a }", "1:9", "exactly one of switch, tap; this has none")]
    [InlineData("{ interface: a, switch: lan, tap: tap0 }", "1:9", "exactly one of switch, tap; this has switch, tap")]
    [InlineData("{ interface: a, switch: lan, queues: 2 }", "1:46", "only a TAP device has 'queues'")]
    [InlineData("{ interface: a, switch: lan, vlan: 4095 }", "1:44", "1 to 4094")]
    [InlineData("{ interface: a/b, switch: lan }", "1:22", "network interface's name")]
    [InlineData("{ interface: a, switch: lan }, { interface: a, switch: wan }", "1:53", "interface 'a' is joined at line 1 already")]
    [InlineData("{ interface: a, tap: t0 }, { interface: b, tap: t0 }", "1:57", "the TAP device 't0' is that of line 1 already")]
    public void Wrong_join_is_told_with_its_place(string joins, string place, string what)
    {
        var e = Assert.Throws<ManifestException>(() => ManifestReader.ReadText($"joins: [{joins}]", "m.yaml"));
        Assert.Contains(e.Message.Split('\n'), line => line.StartsWith($"m.yaml:{place}:", StringComparison.Ordinal) && line.Contains(what, StringComparison.Ordinal));
    }

    [Fact]
    public void Join_is_read_whole()
    {
        var joins = ManifestReader.ReadText("joins: [{ interface: a, switch: lan, vlan: 7 }, { interface: b, tap: tap0, queues: 4 }]", "m.yaml").Joins.Select(static j => j.Join);
        Assert.Equal([new InterfaceJoin("a", "lan", null, 1, 7), new InterfaceJoin("b", null, "tap0", 4)], joins);
        Assert.Equal(["switch lan, vlan 7", "tap tap0 with 4 queues"], joins.Select(static j => j.Text));
    }

    private static string Trimmed(string table) => string.Join('\n', table.Split('\n').Select(static l => l.TrimEnd()));
}
