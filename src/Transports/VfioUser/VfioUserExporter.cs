using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Subsystems.Vfio;

namespace Virtbus.Transports.VfioUser;

/// <summary>Offers every VFIO device of a fabric on a vfio-user socket of its name, in one folder.</summary>
/// <param name="folder">The folder of the sockets; it exists.</param>
/// <param name="log">Where the servers log.</param>
/// <param name="time">The clock for the rate of log lines.</param>
/// <param name="options">Limits and ways of the servers; the usual ones when left out.</param>
public sealed class VfioUserExporter(string folder, ILogger log, TimeProvider time, VfioUserServerOptions? options = null) : IClassObserver
{
    private readonly ConcurrentDictionary<VfioDevice, VfioUserServer> _servers = new();
    private readonly ConcurrentDictionary<string, VirtbusException> _errors = new();

    /// <summary>The socket's path of a device.</summary>
    /// <param name="label">The name that users know, for example 0000:01:00.1; it is the file's name as it stands.</param>
    public string PathOf(string label) => System.IO.Path.Combine(folder, label + ".sock");

    /// <summary>Why the device of a name was not offered when its driver last registered it; null when it was, or when there was none.</summary>
    /// <param name="label">The name that users know.</param>
    public VirtbusException? ErrorOf(string label) => _errors.GetValueOrDefault(label);

    /// <inheritdoc/>
    public ValueTask DeviceAddedAsync(Device device)
    {
        var vfio = (VfioDevice)device;
        VfioUserServer server;
        _errors.TryRemove(vfio.Label, out _);
        try
        {
            server = new VfioUserServer(PathOf(vfio.Label), vfio, log, options, time);
            server.Start();
        }
        catch (VirtbusException e)
        {
            _errors[vfio.Label] = e;
            vfio.EndpointError = e;
            VfioUserLog.NotOffered(log, vfio.Label, e.Message);
            return default;
        }

        _servers[vfio] = server;
        vfio.Endpoint = server;
        return default;
    }

    /// <inheritdoc/>
    public async ValueTask DeviceRemovedAsync(Device device)
    {
        var vfio = (VfioDevice)device;
        vfio.Endpoint = null;
        if (_servers.TryRemove(vfio, out var server))
            await server.DisposeAsync();
    }
}
