using System.Net.Sockets;
using System.Text.Json;
using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;

namespace Virtbus.Tests.Cli;

/// <summary>What the program says of the running fabric and of those who use it.</summary>
public sealed class StatusTests
{
    private const string Manifest = """
        adapters:
          - { name: adapter0, model: merlin, vfs: 1, vf_profiles: [ { vf: 0, driver: vfio-pci } ] }
        disks:
          - { name: disk0, adapter: adapter0, memory: 1MiB }
        serials:
          - { name: serial0 }
        """;

    private static string Self => $"{Environment.ProcessId} ({ProcessName.Of(Environment.ProcessId)})";

    [Fact]
    public async Task Status_names_the_fabric_its_users_and_its_budgets_in_80_columns()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        using var client = VfioUserClient.Connect(Path.Combine(fabric.Runtime, "0000:01:00.1.sock"));
        var status = await fabric.OkAsync("status");
        Assert.Matches($"^fabric   .*\\.yaml\nfolder   {fabric.Runtime}\nprocess  [0-9]+, version [0-9.]+, ready, up [0-9]+ (s|min)\ndevices  [0-9]+, [0-9]+ bound; [0-9]+ modules\n", status);
        Assert.Matches("\nSOCKET OF +PROTOCOL +USER +FOR +MESSAGES +BAD\n", status);
        Assert.Matches("\ndisk0 +vhost-user-blk +0\n", status);
        Assert.Matches($"\nadapter0v0 +vfio-user +{System.Text.RegularExpressions.Regex.Escape(Self)} +[0-9]+ (s|min) +[0-9]+ +0\n", status);
        Assert.Matches("\nserial0 +console\n", status);
        Assert.Matches("\nBUDGET +USED +LIMIT\ndescriptors +[1-9][0-9]* +[1-9][0-9]*\npeer descriptors +[1-9][0-9]* +[1-9][0-9]*\nmappings +[1-9][0-9]* +[1-9][0-9]*\npeer mappings +[1-9][0-9]* +[1-9][0-9]*\npeer address MiB +[1-9][0-9]* +[1-9][0-9]*\nthreads +[1-9][0-9]* +([1-9][0-9]*|none)\n", status);
        Assert.DoesNotContain(status.Split('\n'), line => line.Length > 80 && !line.Contains('/', StringComparison.Ordinal));

        var json = JsonDocument.Parse(await fabric.OkAsync("status", "-j")).RootElement;
        Assert.Equal(("ready", fabric.Runtime), (json.GetProperty("state").GetString(), json.GetProperty("runtime").GetString()));
        Assert.InRange(json.GetProperty("uptime").GetInt64(), 0, 600);
        Assert.Equal(["descriptors", "peer descriptors", "mappings", "peer mappings", "peer address MiB", "threads"], json.GetProperty("budgets").EnumerateArray().Select(b => b.GetProperty("name").GetString()));
        var socket = json.GetProperty("sockets").EnumerateArray().Single(s => s.GetProperty("device").GetString() == "adapter0v0");
        Assert.Equal((true, 1), (socket.GetProperty("connected").GetBoolean(), socket.GetProperty("connections").GetInt64()));
        var connection = socket.GetProperty("connection");
        Assert.Equal(Environment.ProcessId, connection.GetProperty("process").GetInt32());
        Assert.InRange(connection.GetProperty("messages").GetInt64(), 1, 1000);
        Assert.Equal(0, connection.GetProperty("bad_messages").GetInt64());
        Assert.InRange(connection.GetProperty("since").GetDateTimeOffset(), TimeProvider.System.GetUtcNow().AddMinutes(-10), TimeProvider.System.GetUtcNow().AddMinutes(1));
    }

    [Fact]
    public async Task Sockets_are_listed_and_shown_with_their_device_and_stand_in_the_tree()
    {
        await using var fabric = new TestFabric();
        await fabric.UpAsync(Manifest);
        var path = Path.Combine(fabric.Runtime, "0000:01:00.1.sock");
        using (var client = VfioUserClient.Connect(path))
        {
            Assert.Matches($"SOCKET OF +PROTOCOL +USER +PATH\ndisk0 +vhost-user-blk +{fabric.Runtime}/disk0\\.sock\nadapter0v0 \\(0000:01:00\\.1\\) +vfio-user +{System.Text.RegularExpressions.Regex.Escape(Self)} +{path}\n", await fabric.OkAsync("socket", "list"));
            foreach (var name in new[] { "adapter0v0", "0000:01:00.1", "vfio0" })
            {
                var shown = await fabric.OkAsync("socket", "list", name);
                Assert.StartsWith($"adapter0v0 (0000:01:00.1)\n  socket    {path} (vfio-user)\n  user      {Self}, for ", shown, StringComparison.Ordinal);
                var device = await fabric.OkAsync("device", "show", name);
                Assert.Contains($"\n  socket    {path} (vfio-user)\n  user      {Self}, for ", device, StringComparison.Ordinal);
            }
            var json = JsonDocument.Parse(await fabric.OkAsync("device", "show", "adapter0v0", "-j")).RootElement;
            Assert.Equal(path, Assert.Single(json.GetProperty("sockets").EnumerateArray()).GetProperty("path").GetString());
            Assert.Equal(2, JsonDocument.Parse(await fabric.OkAsync("socket", "list", "serial0", "-j")).RootElement.GetArrayLength());
            Assert.Equal("merlin_core.net.0 offers no socket.\n", await fabric.OkAsync("socket", "list", "merlin_core.net.0"));
            Assert.Contains("There is no device 'nobody'.", await fabric.RefusedAsync("socket", "list", "nobody"), StringComparison.Ordinal);

            // What the verbs say, the tree says.
            Assert.Equal($"process {Self}\n", await fabric.OkAsync("attr", "get", "/kernel/sockets/0000:01:00.1.sock/peer"));
            Assert.Equal($"process {Self}\n", await fabric.OkAsync("attr", "get", "/class/vfio-dev/vfio0/peer"));
            Assert.False(client.TryRead(99, 0, new byte[4], out _));
            Assert.Equal("1\n", await fabric.OkAsync("attr", "get", "/class/vfio-dev/vfio0/bad_messages"));
            Assert.Matches("^[1-9][0-9]*\n$", await fabric.OkAsync("attr", "get", "/class/vfio-dev/vfio0/messages"));
            Assert.Matches("^20[0-9-]+T[0-9:]+Z\n$", await fabric.OkAsync("attr", "get", "/class/vfio-dev/vfio0/connected_since"));
            Assert.Matches("^[1-9][0-9]* [1-9][0-9]*\n$", await fabric.OkAsync("attr", "get", "/kernel/budgets/descriptors"));
            Assert.Equal("ready\n", await fabric.OkAsync("attr", "get", "/kernel/fabric/state"));
        }
        using var console = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        await console.ConnectAsync(new UnixDomainSocketEndPoint(Path.Combine(fabric.Runtime, "serial0.console.sock")), TestContext.Current.CancellationToken);
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        while (await fabric.OkAsync("attr", "get", "/kernel/sockets/serial0.console.sock/peer") != $"process {Self}\n")
            deadline.Token.ThrowIfCancellationRequested();
        Assert.Contains($" (console)\n  user      {Self}, for ", await fabric.OkAsync("socket", "list", "serial0"), StringComparison.Ordinal);
    }
}
