using Virtbus.Block;
using Virtbus.Buses.Vdpa;
using Virtbus.Memory;
using Virtbus.Transports.VhostUser;

namespace Virtbus.Tests.Transports.VhostUser;

/// <summary>A block device of one MiB on a vhost-user socket; a model's, with no hardware between.</summary>
internal sealed class VhostUserFixture : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus");
    private readonly IBlockBackend _backend;
    private readonly VirtioDeviceOps _disk;

    internal VhostUserFixture(IBlockBackend? backend = null, int queueCount = 2, MappingBudget? mappings = null, TimeProvider? time = null, bool packed = false)
    {
        Leftovers.Clear();
        _backend = backend ?? new MemoryBackend(1 << 20);
        _disk = ModelDisk.Create(_backend, "serial", queueCount, packed);
        Server = new VhostUserServer(Path.Combine(_folder.FullName, "socket"), Device, Log, time) { Mappings = mappings ?? MappingBudget.Process };
        Server.Start();
    }

    internal RecordedLog Log { get; } = new(Microsoft.Extensions.Logging.LogLevel.Information);

    internal IVdpaOps Device => _disk;

    internal VhostUserServer Server { get; }

    internal string Socket => Server.Path;

    public void Dispose()
    {
        Server.StopAsync().Ends("the server's stop", () => Log.Text);
        _disk.Dispose();
        _backend.Dispose();
        _folder.Delete(recursive: true);
    }

    /// <summary>Waits until every front end that connected is gone, with all that it left behind.</summary>
    internal void WaitIdle(long sessions) => Deadline.Until(() => Server.SessionsEnded == sessions, $"the end of {sessions} sessions in\n{Log.Text}");
}
