using Virtbus.Hardware.Block;
using Virtbus.Hardware.VirtioBlk;
using Virtbus.Drivers.NicVdpa;
using Virtbus.Transports.VhostUser;

namespace Virtbus.Tests.DataPath;

/// <summary>A block device of one MiB on a vhost-user socket.</summary>
internal sealed class VhostUserFixture : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus");
    private readonly IBlockBackend _backend;

    internal VhostUserFixture(IBlockBackend? backend = null, int queueCount = 2)
    {
        _backend = backend ?? new MemoryBackend(1 << 20);
        Device = new VirtioBlkDevice("test", _backend, "serial", queueCount, 128);
        Server = new VhostUserServer(Path.Combine(_folder.FullName, "socket"), new VirtioDeviceOps(Device), Log);
        Server.Start();
    }

    internal TestLog Log { get; } = new();

    internal VirtioBlkDevice Device { get; }

    internal VhostUserServer Server { get; }

    internal string Socket => Server.Path;

    public void Dispose()
    {
        Server.StopAsync().GetAwaiter().GetResult();
        Device.Dispose();
        _backend.Dispose();
        _folder.Delete(recursive: true);
    }

    /// <summary>Waits until every front end that connected is gone, with all that it left behind.</summary>
    internal void WaitIdle(long sessions) => Deadline.Until(() => Log.Count(1003) == sessions, $"the end of {sessions} sessions in\n{Log.All()}");
}
