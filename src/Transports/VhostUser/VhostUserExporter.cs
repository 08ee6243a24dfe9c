using System.Collections.Concurrent;
using Microsoft.Extensions.Logging;
using Virtbus.Core;
using Virtbus.Platform;
using Virtbus.Subsystems.Vhost;

namespace Virtbus.Transports.VhostUser;

/// <summary>Offers every vhost device of a fabric on a vhost-user socket of its name, in one folder.</summary>
/// <param name="folder">The folder of the sockets; it exists.</param>
/// <param name="log">Where the servers log.</param>
/// <param name="time">The clock for the rate of log lines.</param>
public sealed class VhostUserExporter(string folder, ILogger log, TimeProvider time) : IClassObserver
{
    private readonly ConcurrentDictionary<VhostDevice, VhostUserServer> _servers = new();
    private readonly ConcurrentDictionary<string, VirtbusException> _errors = new();

    /// <summary>The socket's path of a device.</summary>
    /// <param name="label">The name that users know.</param>
    public string PathOf(string label) => System.IO.Path.Combine(folder, label + ".sock");

    /// <summary>Why the device of a name was not offered when its driver last registered it; null when it was, or when there was none.</summary>
    /// <param name="label">The name that users know.</param>
    public VirtbusException? ErrorOf(string label) => _errors.GetValueOrDefault(label);

    /// <inheritdoc/>
    public ValueTask DeviceAddedAsync(Device device)
    {
        var vhost = (VhostDevice)device;
        var server = new VhostUserServer(PathOf(vhost.Label), vhost.Ops, log, time);
        _errors.TryRemove(vhost.Label, out _);
        try
        {
            server.Start();
        }
        catch (VirtbusException e)
        {
            _errors[vhost.Label] = e;
            vhost.EndpointError = e;
            VhostUserLog.NotOffered(log, vhost.Label, e.Message);
            return default;
        }
        _servers[vhost] = server;
        vhost.Endpoint = server;
        return default;
    }

    /// <inheritdoc/>
    public async ValueTask DeviceRemovedAsync(Device device)
    {
        var vhost = (VhostDevice)device;
        vhost.Endpoint = null;
        if (_servers.TryRemove(vhost, out var server))
            await server.DisposeAsync();
    }
}
