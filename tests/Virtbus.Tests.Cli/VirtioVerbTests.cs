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
        Assert.Contains("one of: blk, console, rng", await fabric.RefusedAsync("function", "plug", "disk1", "--virtio", "floppy"), StringComparison.Ordinal);
        Assert.Contains("only a disk has 'memory'", await fabric.RefusedAsync("function", "plug", "rng1", "--virtio", "rng", "memory=1MiB"), StringComparison.Ordinal);
        Assert.DoesNotContain("rng1", await fabric.OkAsync("function", "list"), StringComparison.Ordinal);
        Assert.EndsWith(": unplugged\n", await fabric.OkAsync("function", "unplug", "disk0"), StringComparison.Ordinal);
        Assert.EndsWith(": unplugged\n", await fabric.OkAsync("function", "unplug", "rng0"), StringComparison.Ordinal);
        Assert.DoesNotContain("virtio", await fabric.OkAsync("function", "list"), StringComparison.Ordinal);
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
        ];
        foreach (var line in expected)
            Assert.Contains(line, error.Message, StringComparison.Ordinal);
    }

    private static async Task<string> AddressOfAsync(TestFabric fabric, string name)
    {
        var shown = await fabric.OkAsync("function", "show", name);
        return shown[(shown.IndexOf(" as ", StringComparison.Ordinal) + 4)..].Split('\n')[0];
    }
}
