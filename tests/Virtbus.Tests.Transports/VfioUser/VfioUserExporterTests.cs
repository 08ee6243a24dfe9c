using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Subsystems.Vfio;
using Virtbus.Transports;
using Virtbus.Transports.VfioUser;

namespace Virtbus.Tests.Transports.VfioUser;

[Collection(WireCollection.Name)]
public sealed class VfioUserExporterTests : IAsyncDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus");
    private readonly RecordedLog _log = new(Microsoft.Extensions.Logging.LogLevel.Information);
    private readonly Fabric _fabric;
    private readonly SocketExporter _exporter;
    private readonly List<WireDevice> _devices = [];
    private readonly Device _parent = new("parent");

    public VfioUserExporterTests()
    {
        _fabric = new Fabric(new FabricOptions { LoggerFactory = _log });
        _exporter = VfioUserServer.MakeExporter(_folder.FullName, _log, TimeProvider.System);
    }

    public ValueTask DisposeAsync()
    {
        _devices.ForEach(device => device.Dispose());
        _folder.Delete(recursive: true);
        return default;
    }

    private async Task<VfioDevice> RegisterAsync(string label)
    {
        if (_parent.Fabric is null)
        {
            await _fabric.AddAsync(_parent);
            await _fabric.AddClassObserverAsync(VfioSubsystem.Of(_fabric).Class, _exporter);
        }

        _devices.Add(new WireDevice());
        return await VfioSubsystem.Of(_fabric).RegisterAsync(_parent, label, _devices[^1]);
    }

    [Fact]
    public async Task Each_device_has_a_socket_of_its_name()
    {
        var first = await RegisterAsync("0000:01:00.1");
        var second = await RegisterAsync("0000:01:00.2");
        var path = Path.Combine(_folder.FullName, "0000:01:00.1.sock");
        Assert.Equal((path, path, false), (_exporter.PathOf("0000:01:00.1"), first.Endpoint!.Path, first.Endpoint.IsConnected));
        using (var one = VfioUserClient.Connect(path))
        using (var two = VfioUserClient.Connect(second.Endpoint!.Path))
        {
            Assert.True(one.TryWrite(0, 0x100, [1, 2, 3, 4], out _));
            Assert.True(two.TryWrite(0, 0x100, [5, 6, 7, 8], out _));
            Assert.Equal((1, 5), (_devices[0].Bar[0x100], _devices[1].Bar[0x100]));
            Assert.True(first.Endpoint.IsConnected);
        }

        await VfioSubsystem.Of(_fabric).UnregisterAsync(first);
        Assert.False(File.Exists(path));
        Assert.Null(first.Endpoint);
        Assert.True(File.Exists(_exporter.PathOf("0000:01:00.2")));
        await VfioSubsystem.Of(_fabric).UnregisterAsync(second);
    }

    [Fact]
    public async Task Socket_that_cannot_be_made_is_told_by_name()
    {
        Directory.CreateDirectory(_exporter.PathOf("taken"));
        var error = await Assert.ThrowsAsync<VirtbusException>(() => RegisterAsync("taken"));
        Assert.Equal((Errno.EEXIST, _exporter.ErrorOf("taken")!.Message), (error.Errno, error.Message));
        Assert.Null(_exporter.ErrorOf("other"));
        Assert.Empty(VfioSubsystem.Of(_fabric).Class.Devices);
        // Nothing of it is left in the way of the next.
        Directory.Delete(_exporter.PathOf("taken"));
        var device = await RegisterAsync("taken");
        Assert.NotNull(device.Endpoint);
        await VfioSubsystem.Of(_fabric).UnregisterAsync(device);
    }

    [Fact]
    public async Task Idle_devices_cost_no_thread()
    {
        var first = await RegisterAsync("first");
        var threads = Threads();
        var devices = new List<VfioDevice>();
        for (var i = 0; i < 50; i++)
            devices.Add(await RegisterAsync($"device{i}"));
        Assert.Equal(threads, Threads());
        foreach (var device in devices)
            await VfioSubsystem.Of(_fabric).UnregisterAsync(device);
        await VfioSubsystem.Of(_fabric).UnregisterAsync(first);

        static int Threads() => Directory.EnumerateDirectories("/proc/self/task").Count(task =>
            File.ReadAllText(Path.Combine(task, "comm")).StartsWith("vfio-user", StringComparison.Ordinal));
    }
}
