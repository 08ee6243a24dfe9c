using Microsoft.Extensions.Logging;
using Virtbus.Core;
using Virtbus.Memory.Dma;
using Virtbus.Remote.Pci.VfioUser;
using Virtbus.Subsystems.Vfio;
using Virtbus.Transports.VfioUser;

namespace Virtbus.Tests;

/// <summary>Descriptors and mappings of the whole process are counted, so these tests run after the others, one after the other.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public sealed class WireCollection
{
    public const string Name = "wire";
}

/// <summary>A fabric with one device on a vfio-user socket.</summary>
internal sealed class WireFixture : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus");
    private readonly Fabric _fabric;

    internal WireFixture(VfioUserServerOptions? options = null, IommuGroup? group = null, TimeProvider? time = null)
    {
        Leftovers.Clear();
        Device = new WireDevice(group);
        _fabric = new Fabric(new FabricOptions { LoggerFactory = Log, Time = time ?? TimeProvider.System });
        var parent = new Device("parent");
        Wait(_fabric.AddAsync(parent));
        VfioDevice = Wait(VfioSubsystem.Of(_fabric).RegisterAsync(parent, "0000:01:00.1", Device));
        Server = new VfioUserServer(Path.Combine(_folder.FullName, "socket"), VfioDevice, Log, options, time);
        Server.Start();
    }

    internal RecordedLog Log { get; } = new(Microsoft.Extensions.Logging.LogLevel.Information);

    internal WireDevice Device { get; }

    internal VfioDevice VfioDevice { get; }

    internal VfioUserServer Server { get; }

    internal string Socket => Server.Path;

    public void Dispose()
    {
        Server.StopAsync().Ends("the server's stop", () => Log.Text);
        Device.Dispose();
        _folder.Delete(recursive: true);
    }

    /// <summary>Takes the device away, as an unbind of its driver does; the task ends when its user let go.</summary>
    internal Task UnregisterAsync() => VfioSubsystem.Of(_fabric).UnregisterAsync(VfioDevice).AsTask();

    /// <summary>Waits until every client that connected is gone, with all that it left behind.</summary>
    internal void WaitIdle(long sessions) => Until(() => Server.SessionsEnded == sessions, $"the end of {sessions} sessions in\n{Log.Text}");

    internal VfioUserClient Connect(VfioUserClientOptions? options = null) => VfioUserClient.Connect(Socket, options);

    internal static void Until(Func<bool> condition, string what)
    {
        var start = Environment.TickCount64;
        while (!condition())
        {
            if (Environment.TickCount64 - start > WireClient.DeadlineMilliseconds)
                Assert.Fail($"Waited {WireClient.DeadlineMilliseconds} ms for: {what}");
            Thread.Yield();
        }
    }

    private static void Wait(ValueTask task) => task.AsTask().WaitAsync(TimeSpan.FromSeconds(20)).GetAwaiter().GetResult();

    private static T Wait<T>(ValueTask<T> task) => task.AsTask().WaitAsync(TimeSpan.FromSeconds(20)).GetAwaiter().GetResult();
}
