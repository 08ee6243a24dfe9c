using Microsoft.Extensions.Logging.Abstractions;
using Virtbus.Block;
using Virtbus.Core;
using Virtbus.Daemon.Provisioning;
using Virtbus.Platform;
using Virtbus.Subsystems.Block;
using Virtbus.Transports.Nbd;

namespace Virtbus.Tests.Cli;

/// <summary>Disks that a manifest, or a change of one that runs, offers by NBD.</summary>
public sealed class NbdVerbTests
{
    private const string Disks = """
        adapters:
          - { name: adapter0, model: merlin }
        disks:
          - { name: data, adapter: adapter0, memory: 8MiB, nbd: unix }
          - { name: more, adapter: adapter0, memory: 4MiB, nbd: unix, nbd_name: other, nbd_readonly: true }
          - { name: plain, adapter: adapter0, memory: 4MiB }

        """;

    [Fact]
    public async Task Disk_of_a_manifest_is_offered_and_is_in_the_tree_until_the_fabric_goes_down()
    {
        await using var fabric = new TestFabric();
        var up = await fabric.UpAsync(Disks);
        Assert.Matches("data +nbd", up);
        var socket = Path.Combine(fabric.Runtime, "data.nbd");
        Assert.Equal($"nbd+unix:///data?socket={socket}\n", await fabric.OkAsync("attr", "get", "/class/block/data-nbd/socket"));
        Assert.Equal("16384\n", await fabric.OkAsync("attr", "get", "/class/block/data-nbd/size"));
        Assert.Equal("nbd shared\n", await fabric.OkAsync("attr", "get", "/class/block/data-nbd/users"));
        Assert.False(await ExistsAsync(fabric, "plain"));
        using (var client = UnixStream.TryConnect(socket, out _))
        {
            Assert.NotNull(client);
            Assert.Equal("NBDMAGIC", await GreetingAsync(client));
        }

        var sockets = await fabric.OkAsync("socket", "list");
        Assert.Matches("data +nbd +nbd\\+unix:///data\\?socket=", sockets);
        Assert.Matches("more +nbd +nbd\\+unix:///other\\?socket=", sockets);
        await fabric.OkAsync("down");
        Assert.False(File.Exists(socket));
    }

    [Fact]
    public async Task Export_is_opened_moved_and_closed_while_the_disk_is_there()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Disks);
        var guest = await fabric.OkAsync("attr", "get", "/bus/vdpa/devices/plain/vhost-vdpa-2/socket");
        await fabric.OkAsync("function", "set", "plain", "nbd=unix");
        var socket = Path.Combine(fabric.Runtime, "plain.nbd");
        Assert.True(File.Exists(socket));
        var client = UnixStream.TryConnect(socket, out _)!;
        Assert.Equal("NBDMAGIC", await GreetingAsync(client));
        await fabric.OkAsync("function", "set", "plain", "nbd=127.0.0.1:0", "nbd_name=over");
        Assert.False(File.Exists(socket));
        Assert.Equal("", await GreetingAsync(client));
        client.Dispose();
        Assert.Matches("^nbd://127\\.0\\.0\\.1:[1-9][0-9]*/over\n$", await fabric.OkAsync("attr", "get", "/class/block/plain-nbd/socket"));
        await fabric.OkAsync("function", "set", "plain", "nbd=", "nbd_name=");
        Assert.False(await ExistsAsync(fabric, "plain"));
        // The way of the guest was there all the time.
        Assert.Equal(guest, await fabric.OkAsync("attr", "get", "/bus/vdpa/devices/plain/vhost-vdpa-2/socket"));
    }

    [Fact]
    public async Task Place_that_the_host_refuses_leaves_the_export_where_it_was()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Disks);
        var file = fabric.Write("file", "text");
        Assert.Contains("is no socket", await fabric.RefusedAsync("function", "set", "data", $"nbd={file}"), StringComparison.Ordinal);
        Assert.True(File.Exists(Path.Combine(fabric.Runtime, "data.nbd")));
        Assert.True(await ExistsAsync(fabric, "data"));
        Assert.Contains("without TLS", await fabric.RefusedAsync("function", "set", "data", "nbd=0.0.0.0:0"), StringComparison.Ordinal);
        Assert.Contains("nbd_insecure=true", await fabric.RefusedAsync("function", "set", "data", "nbd=0.0.0.0:0"), StringComparison.Ordinal);
        Assert.Contains("an IP address and port", await fabric.RefusedAsync("function", "set", "data", "nbd=nowhere"), StringComparison.Ordinal);
        Assert.Contains("only a disk that is offered by NBD", await fabric.RefusedAsync("function", "set", "plain", "nbd_readonly=true"), StringComparison.Ordinal);
        await fabric.OkAsync("function", "set", "data", "nbd=0.0.0.0:0", "nbd_insecure=true");
        Assert.Matches("^nbd://0\\.0\\.0\\.0:[1-9][0-9]*/data\n$", await fabric.OkAsync("attr", "get", "/class/block/data-nbd/socket"));
    }

    [Fact]
    public async Task Removed_disk_is_offered_no_more_and_one_at_the_same_socket_is()
    {
        await using var fabric = new TestFabric();
        var socket = fabric.Write("both", "");
        File.Delete(socket);
        await fabric.UpAsync(Disks.Replace("nbd: unix", $"nbd: {socket}", StringComparison.Ordinal));
        using var client = UnixStream.TryConnect(socket, out _)!;
        Assert.Equal("NBDMAGIC", await GreetingAsync(client));
        await fabric.OkAsync("function", "deactivate", "data");
        Assert.False(await ExistsAsync(fabric, "data"));
        Assert.True(await ExistsAsync(fabric, "more"));
        Assert.True(File.Exists(socket));
        await fabric.OkAsync("function", "activate", "data");
        Assert.True(await ExistsAsync(fabric, "data"));
        await fabric.OkAsync("function", "deactivate", "data");
        await fabric.OkAsync("function", "deactivate", "more");
        Assert.False(File.Exists(socket));
    }

    [Fact]
    public async Task Export_manifest_says_how_disks_are_offered()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Disks);
        var manifest = await fabric.OkAsync("export");
        Assert.Contains("nbd: unix, nbd_name: other, nbd_readonly: true", manifest, StringComparison.Ordinal);
        Assert.Equal("", await fabric.OkAsync("diff", fabric.Write("same.yaml", manifest)));
        var next = fabric.Write("next.yaml", Disks.Replace("nbd: unix }", "nbd: \"127.0.0.1:0\" }", StringComparison.Ordinal));
        var diff = await fabric.RunAsync("diff", next);
        // Without being made again.
        Assert.Equal("~ disk data on adapter0: nbd unix -> 127.0.0.1:0\n", diff.Output);
        await fabric.OkAsync("apply", next);
        Assert.Equal("", await fabric.OkAsync("diff", next));
    }

    [Theory]
    [InlineData("nbd: \"0.0.0.0:10809\"", "4:57: disks[0].nbd: other hosts can reach 0.0.0.0:10809")]
    [InlineData("nbd: nowhere", "4:57: disks[0].nbd: 'nowhere' is not right here")]
    [InlineData("nbd_readonly: true", "only a disk that is offered by NBD has 'nbd_readonly'")]
    [InlineData("nbd: unix, nbd_name: \"a\\nb\"", "1 to 255 characters")]
    public async Task Wrong_wish_is_an_error_at_its_key(string wish, string error)
    {
        await using var fabric = new TestFabric();
        var refused = await fabric.RefusedAsync("up", fabric.Write("m.yaml", $"""
            adapters:
              - {"{"} name: adapter0, model: merlin {"}"}
            disks:
              - {"{"} name: data, adapter: adapter0, memory: 8MiB, {wish} {"}"}
            """));
        Assert.Contains(error, refused, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Disk_of_a_driver_is_offered_by_its_own_attribute_until_it_goes()
    {
        await using var rig = await FabricRig.StartAsync();
        using var loader = new ModuleLoader(rig.Fabric, Path.Combine(Path.GetDirectoryName(TestFabric.Program)!, "modules"), watch: false);
        var folder = Directory.CreateTempSubdirectory("vb");
        await using var exports = new NbdExports(new ProvisioningContext(rig.Fabric, loader, folder.FullName, NullLoggerFactory.Instance));
        using var backend = new MemoryBackend(1 << 20);
        var subsystem = BlockSubsystem.Of(rig.Fabric);
        var disk = await subsystem.RegisterAsync(null, "vda", backend);
        Assert.Equal("", rig.Read("/class/block/vda/nbd"));
        await WriteAsync("unix readonly name=first");
        Assert.Equal("unix readonly name=first\n", rig.Read("/class/block/vda/nbd"));
        var socket = Path.Combine(folder.FullName, "vda.nbd");
        Assert.Equal($"nbd+unix:///first?socket={socket}\n", rig.Read("/class/block/vda/socket"));
        Assert.Equal(("vda", "nbd"), (Assert.Single(exports.Sockets).Name, exports.Sockets.First().Protocol));
        Assert.True(((NbdExport)exports.Sockets.First().Endpoint).IsReadOnly);
        using var client = UnixStream.TryConnect(socket, out _)!;
        Assert.Equal("NBDMAGIC", await GreetingAsync(client));
        await Expect.RefusedAsync(Errno.EINVAL, () => new ValueTask(WriteAsync("0.0.0.0:0")));
        await Expect.RefusedAsync(Errno.EINVAL, () => new ValueTask(WriteAsync("unix writable")));
        Assert.True(File.Exists(socket));
        await WriteAsync("127.0.0.1:0");
        Assert.False(File.Exists(socket));
        Assert.StartsWith("nbd://127.0.0.1:", rig.Read("/class/block/vda/socket"), StringComparison.Ordinal);
        await WriteAsync("");
        Assert.Equal(("", ""), (rig.Read("/class/block/vda/nbd"), rig.Read("/class/block/vda/socket")));
        Assert.Empty(disk.Users);
        await WriteAsync("unix");
        await subsystem.UnregisterAsync(disk).In();
        Deadline.Until(() => !File.Exists(socket), "the socket to go with the disk");
        Assert.Empty(exports.Sockets);
        folder.Delete(recursive: true);

        Task WriteAsync(string text) => rig.Fabric.Tree.WriteAsync("/class/block/vda/nbd", text, TestContext.Current.CancellationToken).In();
    }

    [Fact]
    public async Task Change_that_is_refused_leaves_the_disk_of_a_driver_offered_and_its_clients_connected()
    {
        await using var rig = await FabricRig.StartAsync();
        using var loader = new ModuleLoader(rig.Fabric, Path.Combine(Path.GetDirectoryName(TestFabric.Program)!, "modules"), watch: false);
        var folder = Directory.CreateTempSubdirectory("vb");
        await using var exports = new NbdExports(new ProvisioningContext(rig.Fabric, loader, folder.FullName, NullLoggerFactory.Instance));
        using var backend = new MemoryBackend(1 << 20);
        var disk = await BlockSubsystem.Of(rig.Fabric).RegisterAsync(null, "vda", backend);
        await WriteAsync("unix");
        using var client = UnixStream.TryConnect(Path.Combine(folder.FullName, "vda.nbd"), out _)!;
        Assert.Equal("NBDMAGIC", await GreetingAsync(client));
        using var other = TcpListener.Listen(new System.Net.IPEndPoint(System.Net.IPAddress.Loopback, 0));
        await Expect.RefusedAsync(Errno.EADDRINUSE, () => new ValueTask(WriteAsync($"{other.EndPoint}")));
        await Expect.RefusedAsync(Errno.EINVAL, () => new ValueTask(WriteAsync("127.0.0.1:0 name=" + new string('x', 4097))));
        await Expect.RefusedAsync(Errno.EINVAL, () => new ValueTask(WriteAsync("unix name=" + new string('x', 4097))));
        Assert.Equal("unix\n", rig.Read("/class/block/vda/nbd"));
        Assert.Single(disk.Users);
        // Neither a byte nor the end of the connection.
        Assert.False(Polling.Wait(client.Descriptor, forWriting: false, cancel: null, 0));
        // In place: the same name at the same address.
        await WriteAsync("unix readonly");
        Assert.True(((NbdExport)Assert.Single(exports.Sockets).Endpoint).IsReadOnly);
        Assert.Single(disk.Users);
        await WriteAsync("");
        Assert.Empty(disk.Users);
        folder.Delete(recursive: true);

        Task WriteAsync(string text) => rig.Fabric.Tree.WriteAsync("/class/block/vda/nbd", text, TestContext.Current.CancellationToken).In();
    }

    [Fact]
    public async Task Address_in_use_is_an_error_of_the_manifest()
    {
        await using var fabric = new TestFabric();
        using var other = TcpListener.Listen(new System.Net.IPEndPoint(System.Net.IPAddress.Loopback, 0));
        var refused = await fabric.RunAsync("up", fabric.Write("m.yaml", Disks.Replace("nbd: unix }", $"nbd: \"{other.EndPoint}\" {"}"}", StringComparison.Ordinal)));
        Assert.Equal(1, refused.Code);
        Assert.Contains($"disks[0].nbd: Address {other.EndPoint} is in use by a running process.", refused.Errors, StringComparison.Ordinal);
    }

    private static async Task<bool> ExistsAsync(TestFabric fabric, string disk) =>
        (await fabric.RunAsync("attr", "get", $"/class/block/{disk}-nbd/size")).Code == 0;

    // What comes from the server: 18 bytes of a greeting, or nothing at the end of the connection.
    internal static async Task<string> GreetingAsync(UnixStream client)
    {
        var bytes = new byte[18];
        var count = await Task.Run(() =>
        {
            Assert.True(Polling.Wait(client.Descriptor, forWriting: false, cancel: null, Deadline.Milliseconds));
            return client.Receive(bytes, [], out _);
        });
        return System.Text.Encoding.ASCII.GetString(bytes, 0, Math.Clamp(count, 0, 8));
    }

    // Chooses the default export (NBD_OPT_EXPORT_NAME, without zeroes): from here on the server does not wait for the client any more.
    internal static async Task EnterAsync(UnixStream client)
    {
        byte[] request = [0, 0, 0, 3, .. "IHAVEOPT"u8, 0, 0, 0, 1, 0, 0, 0, 0];
        Assert.Equal(request.Length, client.Send(request, [], out _));
        var bytes = new byte[10];
        for (var got = 0; got < bytes.Length;)
        {
            Assert.True(await Task.Run(() => Polling.Wait(client.Descriptor, forWriting: false, cancel: null, Deadline.Milliseconds)));
            var count = client.Receive(bytes.AsSpan(got), [], out _);
            Assert.True(count > 0, "the server ended the handshake");
            got += count;
        }
    }
}
