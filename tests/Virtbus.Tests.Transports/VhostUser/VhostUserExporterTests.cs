using Virtbus.Block;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Provisioning;
using Virtbus.Subsystems;
using Virtbus.Subsystems.Vhost;
using Virtbus.Tests.Transports.VfioUser;
using Virtbus.Transports;
using Virtbus.Transports.VhostUser;

namespace Virtbus.Tests.Transports.VhostUser;

/// <summary>What offers vhost devices is what offers VFIO devices too (VfioUserExporterTests); here it is with the other protocol.</summary>
public sealed class VhostUserExporterTests : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus");
    private readonly RecordedLog _log = new(Microsoft.Extensions.Logging.LogLevel.Information);
    private readonly Fabric _fabric = new();
    private readonly Device _parent = new("parent");

    public void Dispose() => _folder.Delete(recursive: true);

    [Fact]
    public async Task Device_has_a_socket_of_its_name_and_one_that_cannot_be_made_is_told_by_name()
    {
        Leftovers.Clear();
        await _fabric.AddAsync(_parent);
        var exporter = VhostUserServer.MakeExporter(_folder.FullName, _log, TimeProvider.System);
        var vhost = VhostSubsystem.Of(_fabric);
        await _fabric.AddClassObserverAsync(vhost.Class, exporter);
        using var backend = new MemoryBackend(1 << 20);
        using var disk = ModelDisk.Create(backend, "serial", 1);
        Directory.CreateDirectory(exporter.PathOf("disk0"));
        var error = await Assert.ThrowsAsync<VirtbusException>(async () => await vhost.RegisterAsync(_parent, "disk0", disk));
        Assert.Equal((Errno.EEXIST, exporter.ErrorOf("disk0")!.Message), (error.Errno, error.Message));
        Assert.Empty(vhost.Class.Devices);
        Directory.Delete(exporter.PathOf("disk0"));
        var device = await vhost.RegisterAsync(_parent, "disk0", disk);
        Assert.Null(exporter.ErrorOf("disk0"));
        // One type of endpoint, whatever the protocol.
        var server = Assert.IsType<SocketServer>(device.Endpoint, exactMatch: false);
        Assert.Equal((exporter.PathOf("disk0"), false, 0L), (server.Path, server.IsConnected, server.Connections));
        using (var front = new FrontEnd(server.Path))
        {
            front.Connect();
            Assert.Equal((true, 1L, Environment.ProcessId), (server.IsConnected, server.Connections, server.Connection!.Process));
        }

        Deadline.Until(() => server.SessionsEnded == 1, $"the end of the session in\n{_log.Text}");
        Assert.Equal((false, 0L), (server.IsConnected, server.BadMessages));
        await vhost.UnregisterAsync(device);
        Assert.Null(device.Endpoint);
        Assert.False(File.Exists(server.Path));
    }

    [Fact]
    public async Task Front_end_that_was_sent_away_is_not_what_the_next_one_is()
    {
        var time = new ManualTime();
        var fabric = new Fabric(new FabricOptions { Time = time });
        var parent = new Device("parent");
        await fabric.AddAsync(parent);
        using var backend = new MemoryBackend(1 << 20);
        using var disk = ModelDisk.Create(backend, "serial", 1);
        var device = await VhostSubsystem.Of(fabric).RegisterAsync(parent, "disk0", disk);
        device.Endpoint = new Held();
        IUserHeld held = device;
        Assert.False(held.Left.IsCompleted);
        // One that comes back at once is not waited for by the deactivation that sent it away, and by the next one it is.
        device.Revoke();
        Assert.True(held.Left.IsCompleted);
        Assert.False(held.Left.IsCompleted);
        device.Revoke();
        time.Advance(TimeSpan.FromSeconds(11));
        Assert.False(held.Left.IsCompleted);
    }

    [Fact]
    public async Task Server_that_stops_in_the_middle_of_a_message_blames_nobody()
    {
        Leftovers.Clear();
        using var fixture = new VhostUserFixture();
        using var front = new FrontEnd(fixture.Socket);
        front.Connect();
        Assert.True(front.SendRaw([1, 0, 0, 0]));
        await fixture.Server.StopAsync().EndsAsync("the server's stop", () => fixture.Log.Text);
        Assert.Equal((1L, 0L), (fixture.Server.SessionsEnded, fixture.Server.BadMessages));
    }

    private sealed class Held : IDeviceEndpoint
    {
        private readonly TaskCompletionSource _never = new();

        public string Path => "disk0.sock";

        public bool IsConnected => true;

        public EndpointConnection? Connection => null;

        public long Connections => 1;

        public long BadMessages => 0;

        public string? Hint => null;

        public Task Left => _never.Task;
    }
}
