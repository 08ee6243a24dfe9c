using Virtbus.Daemon.Manifest;
using Virtbus.Platform;

namespace Virtbus.Tests.Cli;

/// <summary>Virtio functions of type blk that are offered by NBD beside their vfio-user socket: as a manifest, a verb or a definition says it.</summary>
public sealed class NbdFunctionTests
{
    private const string Functions = """
        functions:
          - { name: disk0, virtio: blk, memory: 8MiB, nbd: unix }
          - { name: disk1, virtio: blk, memory: 4MiB, driver: virtio-pci, nbd: unix, nbd_name: other, nbd_readonly: true }
          - { name: plain, virtio: blk, memory: 4MiB }

        """;

    [Fact]
    public async Task Function_of_a_manifest_is_offered_by_both_ways_whichever_driver_has_it()
    {
        await using var fabric = new TestFabric();
        var up = await fabric.UpAsync(Functions);
        Assert.Matches("disk0 \\([0-9a-f:.]+\\) +vfio-user", up);
        Assert.Matches("disk0 +nbd", up);
        var socket = Path.Combine(fabric.Runtime, "disk0.nbd");
        Assert.Equal($"nbd+unix:///disk0?socket={socket}\n", await fabric.OkAsync("attr", "get", "/class/block/disk0-nbd/socket"));
        Assert.Equal("16384\n", await fabric.OkAsync("attr", "get", "/class/block/disk0-nbd/size"));
        Assert.Equal("NBDMAGIC", await GreetingAsync(socket));
        // The driver's disk is another one in the class, and is not open for that.
        Assert.Equal("8192\n", await fabric.OkAsync("attr", "get", "/class/block/vda/size"));
        Assert.Equal("", await fabric.OkAsync("attr", "get", "/class/block/vda/users"));
        var sockets = await fabric.OkAsync("socket", "list");
        Assert.Matches("disk1 +nbd +nbd\\+unix:///other\\?socket=", sockets);
        Assert.DoesNotMatch("plain +nbd", sockets);
        // A virtual machine takes the other one.
        Assert.Matches("(?s)vfio-user\\).*\\(nbd\\)", await fabric.OkAsync("socket", "list", "disk0"));
        await fabric.OkAsync("down");
        Assert.False(File.Exists(socket));
    }

    [Fact]
    public async Task Plugged_function_takes_its_export_with_it()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("{}\n");
        var socket = Path.Combine(fabric.Runtime, "disk0.nbd");
        Assert.Contains(": bound to vfio-pci\n", await fabric.OkAsync("function", "plug", "disk0", "--virtio", "blk", "memory=1MiB", "nbd=unix"), StringComparison.Ordinal);
        Assert.Equal("NBDMAGIC", await GreetingAsync(socket));
        var shown = await fabric.OkAsync("function", "show", "disk0");
        Assert.Contains("nbd=unix\n", shown, StringComparison.Ordinal);
        Assert.Contains("nbd_name=disk0 (not set)\n", shown, StringComparison.Ordinal);
        await fabric.OkAsync("function", "unplug", "disk0");
        Assert.False(File.Exists(socket));
        Assert.Contains("only a disk has 'nbd', and this is a virtio rng", await fabric.RefusedAsync("function", "plug", "dice", "--virtio", "rng", "nbd=unix"), StringComparison.Ordinal);
        Assert.Contains("only a disk that is offered by NBD has 'nbd_name'", await fabric.RefusedAsync("function", "plug", "disk0", "--virtio", "blk", "memory=1MiB", "nbd_name=x"), StringComparison.Ordinal);
        // What is defined to last is offered while it is active.
        await fabric.OkAsync("function", "define", "disk2", "--kind", "virtio", "virtio=blk", "memory=1MiB", "nbd=unix");
        Assert.False(File.Exists(Path.Combine(fabric.Runtime, "disk2.nbd")));
        await fabric.OkAsync("function", "activate", "disk2");
        Assert.Equal("NBDMAGIC", await GreetingAsync(Path.Combine(fabric.Runtime, "disk2.nbd")));
        await fabric.OkAsync("function", "deactivate", "disk2");
        Assert.False(File.Exists(Path.Combine(fabric.Runtime, "disk2.nbd")));
    }

    [Fact]
    public async Task Address_in_use_leaves_no_function_and_nothing_of_it()
    {
        await using var fabric = new TestFabric();
        using var other = TcpListener.Listen(new System.Net.IPEndPoint(System.Net.IPAddress.Loopback, 0));
        var refused = await fabric.RunAsync("up", fabric.Write("m.yaml", $"functions: [ {"{"} name: disk0, virtio: blk, memory: 1MiB, nbd: \"{other.EndPoint}\" {"}"} ]\n"));
        Assert.Equal(1, refused.Code);
        Assert.Contains($"functions[0].nbd: Address {other.EndPoint} is in use by a running process.", refused.Errors, StringComparison.Ordinal);
        await fabric.UpAsync("{}\n");
        // Who has a file open has it alone.
        var file = fabric.Write("disk.img", new string('\0', 4096));
        Assert.Contains("is in use by a running process", await fabric.RefusedAsync("function", "plug", "disk0", "--virtio", "blk", "file=" + file, $"nbd={other.EndPoint}"), StringComparison.Ordinal);
        Assert.DoesNotContain("disk0", await fabric.OkAsync("device", "list"), StringComparison.Ordinal);
        await fabric.OkAsync("function", "plug", "disk0", "--virtio", "blk", "file=" + file, "nbd=unix");
    }

    [Fact]
    public async Task Export_is_opened_moved_and_closed_while_a_driver_has_the_function()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Functions);
        var before = await fabric.OkAsync("device", "show", "plain");
        await fabric.OkAsync("function", "set", "plain", "nbd=unix");
        var socket = Path.Combine(fabric.Runtime, "plain.nbd");
        using (var client = UnixStream.TryConnect(socket, out _)!)
        {
            Assert.Equal("NBDMAGIC", await NbdVerbTests.GreetingAsync(client));
            await NbdVerbTests.EnterAsync(client);
            // Refused, it stays where it is, with its clients.
            Assert.Contains("nbd_insecure=true", await fabric.RefusedAsync("function", "set", "plain", "nbd=0.0.0.0:0"), StringComparison.Ordinal);
            Assert.Contains("is no socket", await fabric.RefusedAsync("function", "set", "plain", "nbd=" + fabric.Write("file", "text")), StringComparison.Ordinal);
            Assert.False(Polling.Wait(client.Descriptor, forWriting: false, cancel: null, 0));
            await fabric.OkAsync("function", "set", "plain", "nbd=127.0.0.1:0", "nbd_name=over");
            Assert.Equal("", await NbdVerbTests.GreetingAsync(client));
        }

        Assert.False(File.Exists(socket));
        Assert.Matches("^nbd://127\\.0\\.0\\.1:[1-9][0-9]*/over\n$", await fabric.OkAsync("attr", "get", "/class/block/plain-nbd/socket"));
        await fabric.OkAsync("function", "set", "plain", "nbd=", "nbd_name=");
        Assert.Equal(1, (await fabric.RunAsync("attr", "get", "/class/block/plain-nbd/size")).Code);
        Assert.Equal(before, await fabric.OkAsync("device", "show", "plain"));
    }

    [Fact]
    public async Task Export_manifest_says_how_functions_are_offered_and_apply_changes_it_in_place()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Functions);
        var manifest = await fabric.OkAsync("export");
        Assert.Contains("nbd: unix, nbd_name: other, nbd_readonly: true", manifest, StringComparison.Ordinal);
        Assert.Equal("", await fabric.OkAsync("diff", fabric.Write("same.yaml", manifest)));
        var next = fabric.Write("next.yaml", Functions.Replace("nbd: unix }", "nbd: \"127.0.0.1:0\" }", StringComparison.Ordinal));
        Assert.Equal("~ function disk0 (virtio blk): nbd unix -> 127.0.0.1:0\n", (await fabric.RunAsync("diff", next)).Output);
        await fabric.OkAsync("apply", next);
        Assert.Equal("", await fabric.OkAsync("diff", next));
        Assert.Matches("^nbd://127\\.0\\.0\\.1:[1-9][0-9]*/disk0\n$", await fabric.OkAsync("attr", "get", "/class/block/disk0-nbd/socket"));
        var none = fabric.Write("none.yaml", Functions.Replace(", nbd: unix, nbd_name: other, nbd_readonly: true", "", StringComparison.Ordinal).Replace(", nbd: unix", "", StringComparison.Ordinal));
        Assert.Equal(
            "~ function disk0 (virtio blk): nbd 127.0.0.1:0 -> not set, nbd_name disk0 -> not set\n~ function disk1 (virtio blk): nbd unix -> not set, nbd_name other -> not set, nbd_readonly true -> false\n2 changes done.\n",
            await fabric.OkAsync("apply", none));
        Assert.DoesNotMatch(" nbd ", await fabric.OkAsync("socket", "list"));
    }

    [Fact]
    public async Task What_is_behind_a_function_that_is_pulled_out_goes_too_and_it_can_be_plugged_in_again()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync("{}\n");
        var file = "file=" + fabric.Write("disk.img", new string('\0', 4096));
        var socket = Path.Combine(fabric.Runtime, "disk0.nbd");
        await fabric.OkAsync("function", "plug", "disk0", "--virtio", "blk", file, "nbd=unix");
        var client = UnixStream.TryConnect(socket, out _)!;
        Assert.Equal("NBDMAGIC", await NbdVerbTests.GreetingAsync(client));
        await fabric.OkAsync("function", "unplug", "disk0", "--surprise");
        Assert.Equal("", await NbdVerbTests.GreetingAsync(client));
        client.Dispose();
        // The file is free, or waited for.
        await fabric.OkAsync("function", "plug", "disk0", "--virtio", "blk", file, "nbd=unix");
        Assert.Equal("NBDMAGIC", await GreetingAsync(socket));
        await fabric.OkAsync("function", "unplug", "disk0", "--surprise");
        Deadline.Until(() => !File.Exists(socket), "the socket to go with the function");

        // Nobody deactivated this one: what is activated again is offered, and not what was there before.
        await fabric.OkAsync("function", "define", "disk1", "--kind", "virtio", "virtio=blk", file, "nbd=unix");
        await fabric.OkAsync("function", "activate", "disk1");
        var shown = await fabric.OkAsync("function", "show", "disk1");
        var address = shown[(shown.IndexOf(" as ", StringComparison.Ordinal) + 4)..].Split('\n')[0];
        await fabric.OkAsync("attr", "set", $"/bus/pci/devices/{address}/unplug", "surprise");
        await fabric.OkAsync("function", "activate", "disk1");
        Assert.Equal("NBDMAGIC", await GreetingAsync(Path.Combine(fabric.Runtime, "disk1.nbd")));

        // Of other types too.
        await fabric.OkAsync("function", "plug", "talk0", "--virtio", "console");
        await fabric.OkAsync("function", "unplug", "talk0", "--surprise");
        Deadline.Until(() => !File.Exists(Path.Combine(fabric.Runtime, "talk0.console.sock")), "the console's socket to go with the function");
    }

    [Fact]
    public void What_is_wrong_with_the_keys_is_told_at_them()
    {
        var error = Assert.Throws<ManifestException>(() => ManifestReader.ReadText(
            """
            functions:
              - { name: a, virtio: blk, memory: 1MiB, nbd: "0.0.0.0:10809" }
              - { name: b, virtio: blk, memory: 1MiB, nbd: nowhere }
              - { name: c, virtio: blk, memory: 1MiB, nbd_readonly: true }
              - { name: d, virtio: rng, nbd: unix }
              - { name: e, simulated: scratch, nbd_insecure: true }
              - { name: f, virtio: net, nbd_name: x }
            """,
            "t.yaml"));
        string[] expected =
        [
            "t.yaml:2:48: functions[0].nbd: other hosts can reach 0.0.0.0:10809, and NBD is served without TLS",
            "t.yaml:3:48: functions[1].nbd: 'nowhere' is not right here",
            "functions[2].nbd_readonly: only a disk that is offered by NBD has 'nbd_readonly'. Remove the key, or add 'nbd'.",
            "functions[3].nbd: only a disk has 'nbd', and this is a virtio rng. Remove the key.",
            "functions[4].nbd_insecure: only a virtio device has 'nbd_insecure'",
            "functions[5].nbd_name: only a disk has 'nbd_name', and this is a virtio net",
        ];
        foreach (var line in expected)
            Assert.Contains(line, error.Message, StringComparison.Ordinal);
    }

    private static async Task<string> GreetingAsync(string socket)
    {
        using var client = UnixStream.TryConnect(socket, out _);
        Assert.NotNull(client);
        return await NbdVerbTests.GreetingAsync(client);
    }
}
