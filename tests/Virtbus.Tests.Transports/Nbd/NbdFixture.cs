using Virtbus.Block;
using Virtbus.Transports.Nbd;

namespace Virtbus.Tests.Transports.Nbd;

/// <summary>A server with one disk.</summary>
internal sealed class NbdFixture : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus");

    internal NbdFixture(IBlockBackend? backend = null, bool readOnly = false, bool tcp = false, TimeProvider? time = null, NbdServerOptions? options = null, string name = "disk")
    {
        Backend = backend ?? new MemoryBackend(1 << 20);
        Export = new NbdExport(name, Backend, readOnly, "a disk of the tests");
        Server = new NbdServer(tcp ? NbdAddress.OfTcp("127.0.0.1:0") : NbdAddress.OfSocket(Path.Combine(_folder.FullName, "nbd")), Log.CreateLogger("test"), time, options);
        Server.Add(Export);
        Server.Start();
    }

    internal RecordedLog Log { get; } = new();

    internal IBlockBackend Backend { get; }

    internal NbdExport Export { get; }

    internal NbdServer Server { get; }

    internal string Uri => Export.Path;

    /// <summary>A file in the fixture's folder.</summary>
    internal string File(string name) => Path.Combine(_folder.FullName, name);

    /// <summary>Waits until so many are connected.</summary>
    internal void WaitFor(int clients) => Deadline.Until(() => Server.Clients == clients, $"{clients} clients");

    /// <summary>Waits until nobody is connected.</summary>
    internal void WaitIdle() => Deadline.Until(() => Server.Clients == 0, "all clients to be gone");

    public void Dispose()
    {
        Server.StopAsync().Ends("the stop");
        Backend.Dispose();
        Assert.Equal(0, Log.Count(1204));
        _folder.Delete(recursive: true);
    }
}
